//! The key of an endpoint, and what a server says with the key taken out.

use std::fmt;

use reqwest::header::HeaderValue;

use crate::backend::replace::Replacer;

/// What the key's place is shown as.
const HIDDEN: &str = "<key>";
/// Shorter ones (`EMPTY`, `none`) are words that stand for no key, and occur in answers.
const SECRET_MIN: usize = 8;
/// Characters of a server's words in an error.
const SHOWN: usize = 300;

/// A key. It is shown nowhere.
#[derive(Clone, Default)]
pub struct Secret(Option<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { HIDDEN } else { "no key" })
    }
}

impl Secret {
    pub const fn new(key: Option<String>) -> Self {
        Self(key)
    }

    pub const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// The header `Authorization`; none without a key.
    pub fn header(&self) -> Result<Option<HeaderValue>, &'static str> {
        let Some(key) = &self.0 else { return Ok(None) };
        let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| "holds characters that no header can carry (a line break?)")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// What must not be shown, with what is shown in its place.
    pub fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        let key = self.0.iter().filter(|key| key.len() >= SECRET_MIN);
        key.map(|key| (key.clone(), HIDDEN.to_owned()))
    }

    pub fn scrub(&self, text: &str) -> String {
        Replacer::new(self.pairs()).whole(text)
    }

    /// A server's words in one short line: without control characters, without the key.
    pub fn line(&self, text: &str) -> String {
        // Control characters first: without them the key may come together.
        let text: String = text.chars().filter(|c| !c.is_control() || c.is_whitespace()).collect();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let words = self.scrub(&words);
        match words.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{} ...", &words[..at]),
            None => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_taken_out_of_what_a_server_says() {
        let secret = Secret::new(Some("sk-hush-hush".into()));
        assert_eq!(secret.line("no: sk-\u{7}hush\u{1b}-hush\n<b>"), "no: <key> <b>");
        assert_eq!(format!("{secret:?} {:?}", secret.header()), "<key> Ok(Some(Sensitive))");
        assert_eq!(secret.line(&"x".repeat(400)).len(), SHOWN + 4);
        assert_eq!(Secret::new(Some("EMPTY".into())).line("EMPTY"), "EMPTY");
        assert!(Secret::new(Some("a\nb".into())).header().is_err());
    }
}
