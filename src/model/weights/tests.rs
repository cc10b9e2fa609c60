use std::collections::HashMap;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use safetensors::tensor::TensorView;
use serde_json::json;
use tempfile::TempDir;

use super::*;

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn file(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views: Vec<_> =
        tensors.iter().map(|(n, d, s, b)| (*n, TensorView::new(*d, s.to_vec(), b).unwrap())).collect();
    safetensors::serialize(views, Some(HashMap::from([("format".to_owned(), "pt".to_owned())]))).unwrap()
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

#[test]
fn all_three_float_types_read_as_f32() {
    let values = [1.0_f32, -0.5, 3.140625, 65504.0, 0.0, -0.0];
    let bf16: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let f16: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let full = f32s(&values);
    let dir = folder(&[(
        "model.safetensors",
        &file(&[
            ("b", Dtype::BF16, &[2, 3], &bf16),
            ("f", Dtype::F32, &[6], &full),
            ("h", Dtype::F16, &[3, 2], &f16),
        ]),
    )]);
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["b", "f", "h"]);
    assert_eq!(weights.shape("b"), Some(&[2, 3][..]));
    assert_eq!(weights.metadata("format"), Some("pt"));
    assert_eq!(weights.read_vec("f", &[6]).unwrap(), values);
    assert_eq!(weights.read_vec("h", &[3, 2]).unwrap(), values);
    let expect: Vec<f32> = values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
    assert_eq!(weights.read_vec("b", &[2, 3]).unwrap(), expect);
}

#[test]
fn f16_conversion_is_right_beyond_one_buffer() {
    let values: Vec<f32> = (0..5000).map(|i| i as f32 * 0.25).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let mut out = vec![0.0; 5000];
    to_f32(Dtype::F16, &bytes, &mut out);
    let expect: Vec<f32> = values.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
    assert_eq!(out, expect);
}

#[test]
fn shards_are_found_by_the_index() {
    let (a, b) = (f32s(&[1.0, 2.0]), f32s(&[3.0]));
    let index = json!({"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}).to_string();
    let one = file(&[("x", Dtype::F32, &[2], &a)]);
    let two = file(&[("y", Dtype::F32, &[1], &b)]);
    let dir = folder(&[("one.safetensors", &one), ("two.safetensors", &two), (INDEX, index.as_bytes())]);
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.read_vec("x", &[2]).unwrap(), [1.0, 2.0]);
    assert_eq!(weights.read_vec("y", &[1]).unwrap(), [3.0]);
    assert_eq!(weights.bytes(), 12);

    std::fs::remove_file(dir.path().join("two.safetensors")).unwrap();
    let error = Weights::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("two.safetensors") && error.contains("missing") && error.contains("`y`"),
        "{error}"
    );

    std::fs::write(dir.path().join("two.safetensors"), &one).unwrap();
    let error = Weights::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("two.safetensors") && error.contains("`y`"), "{error}");
}

#[test]
fn a_shard_outside_the_folder_is_refused() {
    let one = file(&[("x", Dtype::F32, &[1], &f32s(&[1.0]))]);
    let outside = folder(&[("secret.safetensors", &one)]);
    let secret = outside.path().join("secret.safetensors");
    for name in
        [secret.to_str().unwrap(), "../secret.safetensors", "a/../../secret.safetensors", "link.safetensors"]
    {
        let index = json!({"weight_map": {"x": name}}).to_string();
        let dir = folder(&[(INDEX, index.as_bytes())]);
        symlink(&secret, dir.path().join("link.safetensors")).unwrap();
        let error = Weights::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("folder"), "{name}: {error}");
    }
    let dir = folder(&[]);
    symlink(&secret, dir.path().join(SINGLE)).unwrap();
    assert!(Weights::open(dir.path()).unwrap_err().to_string().contains("outside"));
}

#[test]
fn complaints_name_file_and_tensor() {
    let dir = folder(&[(
        SINGLE,
        &file(&[
            ("layer.q.weight", Dtype::F32, &[2, 2], &f32s(&[0.0; 4])),
            ("ids", Dtype::I64, &[1], &7_i64.to_le_bytes()),
        ]),
    )]);
    let weights = Weights::open(dir.path()).unwrap();
    let say = |name: &str, shape: &[usize]| weights.read_vec(name, shape).unwrap_err().to_string();
    let missing = say("layer.k.weight", &[2, 2]);
    assert!(
        missing.contains(SINGLE)
            && missing.contains("`layer.k.weight`")
            && missing.contains("layer.q.weight"),
        "{missing}"
    );
    let shape = say("layer.q.weight", &[2, 3]);
    assert!(shape.contains("[2, 2]") && shape.contains("[2, 3]"), "{shape}");
    assert!(say("ids", &[1]).contains("I64"));
    assert!(weights.read_f32("layer.q.weight", &[2, 2], &mut [0.0; 3]).is_err());
    assert_eq!(weights.read_ints("ids").unwrap(), (vec![1], vec![7]));
    assert!(weights.read_ints("layer.q.weight").unwrap_err().to_string().contains("F32"));

    let empty = folder(&[]);
    assert!(Weights::open(empty.path()).unwrap_err().to_string().contains(INDEX));
    let pickle = folder(&[("pytorch_model.bin", b"x")]);
    assert!(Weights::open(pickle.path()).unwrap_err().to_string().contains("pytorch_model.bin"));
    for index in [r#"{"weight_map":{}}"#, "{}", r#"{"weight_map":{"x":3}}"#, "[]", "{"] {
        let dir = folder(&[(INDEX, index.as_bytes())]);
        assert!(Weights::open(dir.path()).unwrap_err().to_string().contains(INDEX), "{index}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = file(&[("a", Dtype::F32, &[3], &f32s(&[1.0; 3])), ("b", Dtype::F32, &[2], &f32s(&[2.0; 2]))]);
    for len in 0..whole.len() {
        let dir = folder(&[(SINGLE, &whole[..len])]);
        let error = Weights::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(SINGLE), "{error}");
    }
}

#[test]
fn wrong_headers_are_refused() {
    let header = |len: u64, json: &str| [&len.to_le_bytes()[..], json.as_bytes()].concat();
    let sized = |json: &str| header(json.len() as u64, json);
    let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    for bytes in [
        header(u64::MAX, "{}"),
        header(1 << 40, "{}"),
        header(0, ""),
        sized("not json"),
        sized(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#),
        sized(r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,0]}}"#),
        sized(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#),
        sized(r#"{"a":{"dtype":"F33","shape":[0],"data_offsets":[0,0]}}"#),
        sized(r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[8,0]}}"#),
        sized(&deep),
    ] {
        let dir = folder(&[(SINGLE, &bytes)]);
        assert!(Weights::open(dir.path()).unwrap_err().to_string().contains(SINGLE));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_damaged_file_is_an_error_or_reads_without_panic(at in 0_usize..200, byte in any::<u8>()) {
        let mut bytes = file(&[("a", Dtype::BF16, &[3], &[0; 6]), ("b", Dtype::F32, &[2], &f32s(&[2.0; 2]))]);
        let at = at % bytes.len();
        bytes[at] = byte;
        let dir = folder(&[(SINGLE, &bytes)]);
        if let Ok(weights) = Weights::open(dir.path()) {
            for name in weights.names().map(String::from).collect::<Vec<_>>() {
                let shape = weights.shape(&name).unwrap().to_vec();
                let _ = weights.read_vec(&name, &shape);
                let _ = weights.read_ints(&name);
            }
        }
    }
}
