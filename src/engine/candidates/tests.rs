use super::super::models::{endpoint_hash, hash_model_files};
use super::*;
use std::collections::BTreeMap;

#[test]
fn slugs_hold_no_space_and_no_control_sequence() {
    assert_eq!(slug("my best / run"), "my-best-run");
    assert_eq!(slug("\u{1b}[31mred"), "31mred");
    assert_eq!(slug(" -- "), "");
    assert_eq!(slug("v1.2_ü"), "v1.2_ü");
}

#[test]
fn an_endpoint_that_gets_placeholders_is_another_candidate() {
    let hash = |mask| endpoint_hash("http://x/v1", "m", mask);
    assert_ne!(hash(true), hash(false));
    assert_ne!(hash(false), endpoint_hash("http://x/v1", "n", false));
}

#[test]
fn a_models_hash_follows_content_and_not_place() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    for dir in [&a, &b] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("config.json"), "{}").unwrap();
        fs::write(dir.join("model.safetensors"), "weights").unwrap();
    }
    fs::write(b.join("README.md"), "about").unwrap();
    let hash = |dir| hash_model_files(dir, &mut BTreeMap::new()).unwrap();
    assert_eq!(hash(&a), hash(&b));
    fs::write(b.join("model.safetensors"), "other weights").unwrap();
    assert_ne!(hash(&a), hash(&b));
}
