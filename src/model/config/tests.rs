use super::*;

fn parse(text: &str) -> Result<ModelConfig, ModelError> {
    ModelConfig::parse(&serde_json::from_str(text).unwrap(), Path::new("m/config.json"))
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let llama = parse(r#"{"model_type":"llama"}"#).unwrap();
    assert_eq!((llama.vocab, llama.hidden, llama.ffn, llama.layers), (32_000, 4_096, 11_008, 32));
    assert_eq!((llama.heads, llama.kv_heads, llama.head_dim, llama.max_positions), (32, 32, 128, 2_048));
    assert_eq!((llama.rms_eps, llama.rope_theta, llama.tied_embeddings), (1e-6, 10_000.0, false));
    assert_eq!((llama.bos, llama.eos, llama.pad), (Some(1), vec![2], None));
    let mistral = parse(r#"{"model_type":"mistral"}"#).unwrap();
    assert_eq!((mistral.kv_heads, mistral.sliding_window, mistral.max_positions), (8, Some(4_096), 131_072));
    let qwen2 = parse(r#"{"model_type":"qwen2","sliding_window":128}"#).unwrap();
    assert!(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm);
    assert_eq!((qwen2.sliding_window, qwen2.bos, qwen2.eos.len()), (None, None, 0));
    let qwen3 =
        parse(r#"{"model_type":"qwen3","hidden_size":64,"num_attention_heads":4,"num_key_value_heads":2}"#);
    let qwen3 = qwen3.unwrap();
    assert_eq!((qwen3.head_dim, qwen3.q_dim(), qwen3.kv_dim(), qwen3.qk_norm), (128, 512, 256, true));
}

#[test]
fn both_spellings_of_rope_mean_the_same() {
    let rope = r#""rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192"#;
    let old = format!(r#"{{"model_type":"llama","rope_theta":500000.0,"rope_scaling":{{{rope}}}}}"#);
    let new = format!(r#"{{"model_type":"llama","rope_parameters":{{"rope_theta":500000.0,{rope}}}}}"#);
    assert_eq!(parse(&old).unwrap(), parse(&new).unwrap());
    assert_eq!(parse(&old).unwrap().rope_theta, 500_000.0);
    assert!(matches!(parse(&old).unwrap().rope_scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
    let linear = parse(r#"{"model_type":"llama","rope_scaling":{"type":"linear","factor":2}}"#).unwrap();
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    let none = parse(
        r#"{"model_type":"llama","rope_scaling":null,"rope_parameters":{"rope_theta":5e5,"rope_type":"default"}}"#,
    );
    assert_eq!((none.as_ref().unwrap().rope_theta, none.unwrap().rope_scaling), (5e5, RopeScaling::None));
}

#[test]
fn complaints_name_file_key_and_what_is_supported() {
    for (text, key, say) in [
        (r#"{"model_type":"mamba"}"#, "model_type", "llama, mistral, qwen2, qwen3"),
        (r"{}", "model_type", "llama"),
        (
            r#"{"model_type":"llama","rope_scaling":{"rope_type":"yarn","factor":4}}"#,
            "rope_scaling.rope_type",
            "llama3",
        ),
        (r#"{"model_type":"llama","rope_scaling":{"rope_type":"linear"}}"#, "rope_scaling.factor", "missing"),
        (
            r#"{"model_type":"llama","rope_scaling":{"rope_type":"linear","factor":0}}"#,
            "rope_scaling.factor",
            "positive",
        ),
        (r#"{"model_type":"llama","rope_scaling":"linear"}"#, "rope_scaling", "object"),
        (r#"{"model_type":"llama","rope_theta":0}"#, "rope_theta", "above 1"),
        (r#"{"model_type":"llama","num_attention_heads":0}"#, "num_attention_heads", "between 1"),
        (r#"{"model_type":"llama","num_attention_heads":-4}"#, "num_attention_heads", "between 1"),
        (
            r#"{"model_type":"llama","num_attention_heads":6,"hidden_size":36,"num_key_value_heads":4}"#,
            "num_key_value_heads",
            "divide",
        ),
        (r#"{"model_type":"llama","num_attention_heads":7}"#, "num_attention_heads", "divide"),
        (r#"{"model_type":"llama","hidden_size":96,"num_attention_heads":32}"#, "head_dim", "odd"),
        (r#"{"model_type":"llama","hidden_size":1e18}"#, "hidden_size", "between 1"),
        (r#"{"model_type":"llama","vocab_size":99999999999999}"#, "vocab_size", "between 1"),
        (r#"{"model_type":"llama","hidden_size":"64"}"#, "hidden_size", "whole number"),
        (r#"{"model_type":"llama","rms_norm_eps":-1}"#, "rms_norm_eps", "between"),
        (r#"{"model_type":"llama","tie_word_embeddings":"yes"}"#, "tie_word_embeddings", "true"),
        (r#"{"model_type":"llama","hidden_act":"gelu"}"#, "hidden_act", "silu"),
        (r#"{"model_type":"llama","eos_token_id":"</s>"}"#, "eos_token_id", "token id"),
        (r#"{"model_type":"llama","quantization_config":{"bits":4}}"#, "quantization_config", "bf16"),
        (r#"{"model_type":"llama","partial_rotary_factor":0.5}"#, "partial_rotary_factor", "supported"),
        (
            r#"{"model_type":"qwen2","use_sliding_window":true,"sliding_window":64,"max_window_layers":3}"#,
            "max_window_layers",
            "some layers",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with("m/config.json: "), "{error}");
        assert!(error.contains(&format!("`{key}`")) && error.contains(say), "{text}\n{error}");
    }
}

#[test]
fn what_is_written_reads_back_the_same() {
    for text in [
        r#"{"model_type":"llama","attention_bias":true,"mlp_bias":true,"eos_token_id":[2,3],"pad_token_id":0,
            "rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":64}}"#,
        r#"{"model_type":"mistral","sliding_window":8,"rms_norm_eps":1e-5}"#,
        r#"{"model_type":"mistral","sliding_window":null}"#,
        r#"{"model_type":"qwen2","tie_word_embeddings":true,"use_sliding_window":true,"sliding_window":16,"max_window_layers":0}"#,
        r#"{"model_type":"qwen3","head_dim":32,"attention_bias":true,"rope_theta":1000000}"#,
    ] {
        let config = parse(text).unwrap();
        assert_eq!(ModelConfig::parse(&config.to_json(), Path::new("w")).unwrap(), config, "{text}");
    }
}

#[test]
fn end_tokens_of_the_generation_config_go_first() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"model_type":"qwen2","eos_token_id":5}"#).unwrap();
    assert_eq!(ModelConfig::load(dir.path()).unwrap().eos, [5]);
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id":[7,8],"bos_token_id":1}"#)
        .unwrap();
    let config = ModelConfig::load(dir.path()).unwrap();
    assert_eq!((config.eos, config.bos), (vec![7, 8], Some(1)));
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id":"x"}"#).unwrap();
    assert!(ModelConfig::load(dir.path()).unwrap_err().to_string().contains("generation_config.json"));
}
