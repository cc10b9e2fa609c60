use std::time::Duration;

use super::super::tokenizer::tests::{MODELS, fixture, reference};
use super::*;

fn load(name: &str) -> (Tokenizer, Option<ChatTemplate>) {
    (Tokenizer::load(&fixture(name)).unwrap(), ChatTemplate::load(&fixture(name)).unwrap())
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, BTreeMap::from([("eos_token".to_owned(), "<|im_end|>".to_owned())])).unwrap()
}

fn render(source: &str) -> Result<String, ModelError> {
    template(source).render(&[Message::user("hi")], true)
}

#[test]
fn conversations_render_as_by_transformers() {
    for name in MODELS {
        let (_, template) = load(name);
        let chats = reference(name).chats;
        assert_eq!(template.is_some(), !chats.is_empty(), "{name}");
        for chat in chats {
            let text = template.as_ref().unwrap().render(&chat.messages, chat.add_generation_prompt);
            match chat.text {
                Some(expect) => assert_eq!(text.unwrap(), expect, "{name}"),
                None => assert!(text.unwrap_err().to_string().contains("roles"), "{name}"),
            }
        }
    }
}

#[test]
fn prompts_have_the_tokens_of_transformers() {
    for name in MODELS {
        let (tokenizer, template) = load(name);
        for answer in reference(name).answers {
            assert_eq!(
                prompt_tokens(&tokenizer, template.as_ref(), &answer.text).unwrap(),
                answer.tokens,
                "{name}"
            );
        }
    }
}

#[test]
fn an_answer_ends_with_one_token_that_ends_generation_and_reads_as_the_gold() {
    for name in MODELS {
        let (tokenizer, template) = load(name);
        for template in [template.as_ref(), None] {
            for gold in ["billing", "Das Gerät ist kaputt.", "a\nb", "", "日本"] {
                let answer = answer_tokens(&tokenizer, template, "My card", gold).unwrap();
                let (end, rest) = answer.split_last().unwrap();
                assert!(tokenizer.eos().contains(end), "{name} {gold:?}");
                assert!(!rest.iter().any(|id| tokenizer.eos().contains(id)), "{name} {gold:?}");
                assert_eq!(tokenizer.decode(rest).unwrap().trim(), gold, "{name}");
            }
        }
    }
}

#[test]
fn prompt_and_answer_together_are_the_conversation() {
    for name in ["llama", "mistral", "qwen2"] {
        let (tokenizer, template) = load(name);
        let template = template.unwrap();
        let mut tokens = prompt_tokens(&tokenizer, Some(&template), "My card").unwrap();
        tokens.extend(answer_tokens(&tokenizer, Some(&template), "My card", "billing").unwrap());
        let full =
            template.render(&[Message::user("My card"), Message::assistant("billing")], false).unwrap();
        let full = tokenizer.encode(&full, false).unwrap();
        assert_eq!(full[..tokens.len()], tokens, "{name}");
    }
}

#[test]
fn a_gold_with_the_text_of_an_end_token_is_refused() {
    let (tokenizer, template) = load("qwen2");
    for template in [template.as_ref(), None] {
        let error = answer_tokens(&tokenizer, template, "x", "a<|im_end|>b").unwrap_err().to_string();
        assert!(error.contains("ends generation"), "{error}");
    }
}

#[test]
fn a_template_whose_prompt_is_no_beginning_of_the_conversation_is_refused() {
    let (tokenizer, _) = load("qwen2");
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}Go: {% endif %}";
    let error = answer_tokens(&tokenizer, Some(&template(source)), "x", "y").unwrap_err().to_string();
    assert!(error.contains("Go: ") && error.contains("assistant"), "{error}");
}

#[test]
fn a_template_that_never_ends_the_answer_is_refused() {
    let (tokenizer, _) = load("qwen2");
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let error = answer_tokens(&tokenizer, Some(&template(source)), "x", "y").unwrap_err().to_string();
    assert!(error.contains("ends generation") && error.contains("<|im_end|>"), "{error}");
}

#[test]
fn python_methods_json_and_blocks_work_as_in_jinja() {
    assert_eq!(
        render("{{ 'a,b'.split(',')|length }}{{ ' x '.strip() }}{{ messages[0].get('role') }}").unwrap(),
        "2xuser"
    );
    assert_eq!(render("{{ messages|tojson }}").unwrap(), r#"[{"role": "user", "content": "hi"}]"#);
    assert_eq!(render("{{ {'a': '<é>'}|tojson }}").unwrap(), r#"{"a": "<é>"}"#);
    assert_eq!(render("{{ {'a': [1]}|tojson(indent=2) }}").unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
    assert_eq!(render("a\n  {% if true %}\nb\n  {% endif %}\nc\n").unwrap(), "a\nb\nc");
    assert_eq!(
        render("{% for m in messages %}{% generation %}{{ m.content }}{%- endgeneration -%} {% endfor %}|")
            .unwrap(),
        "hi|"
    );
    assert_eq!(render("{{ eos_token }}{{ bos_token }}{{ tools is defined }}").unwrap(), "<|im_end|>False");
    assert!(render("{{ raise_exception('not so') }}").unwrap_err().to_string().contains("not so"));
}

#[test]
fn a_template_that_does_not_end_runs_out_of_steps() {
    let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(render(source).unwrap_err().to_string().contains("fuel"));
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(render(recursive).is_err());
}

#[test]
fn dates_are_written_as_by_strftime() {
    // 29 February 2024, 13:05:09 UTC, a Thursday.
    let time = UNIX_EPOCH + Duration::from_secs(1_709_211_909);
    let say = |format: &str| strftime(format, time).unwrap();
    assert_eq!(say("%d %b %Y"), "29 Feb 2024");
    assert_eq!(say("%A, %-d %B %y %H:%M:%S %I %p"), "Thursday, 29 February 24 13:05:09 01 PM");
    assert_eq!(say("%F %T %% %a"), "2024-02-29 13:05:09 % Thu");
    assert!(strftime("%Q", time).is_err());
    assert_eq!(strftime("%F", UNIX_EPOCH).unwrap(), "1970-01-01");
    assert_eq!(strftime("%F", UNIX_EPOCH + Duration::from_secs(86_400 * 11_016)).unwrap(), "2000-02-29");
}

#[test]
fn a_template_file_goes_before_the_configuration_and_faults_name_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    assert!(ChatTemplate::load(dir.path()).unwrap().is_none());
    write("tokenizer_config.json", r#"{"chat_template": "config"}"#);
    let text = |dir: &Path| ChatTemplate::load(dir).unwrap().unwrap().render(&[], true).unwrap();
    assert_eq!(text(dir.path()), "config");
    write("chat_template.jinja", "file");
    assert_eq!(text(dir.path()), "file");
    write("chat_template.jinja", "{% if %}");
    assert!(ChatTemplate::load(dir.path()).unwrap_err().to_string().contains("chat_template.jinja"));
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    for config in
        [r#"{"chat_template": 3}"#, r#"{"chat_template": []}"#, r#"{"chat_template": [{"name": "default"}]}"#]
    {
        write("tokenizer_config.json", config);
        assert!(
            ChatTemplate::load(dir.path()).unwrap_err().to_string().contains("`chat_template`"),
            "{config}"
        );
    }
}

#[test]
fn at_a_fixed_time_a_template_prints_the_same_date_for_ever() {
    let template = ChatTemplate::new("{{ strftime_now('%d %b %Y %T') }}", BTreeMap::new()).unwrap();
    assert_ne!(template.render(&[], true).unwrap(), "29 Feb 2000 00:00:00");
    let template = template.at(UNIX_EPOCH + Duration::from_secs(86_400 * 11_016));
    assert_eq!(template.render(&[], true).unwrap(), "29 Feb 2000 00:00:00");
}
