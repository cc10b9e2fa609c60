//! Personal data that must not leave the machine: it goes out as placeholders, which are reversed in the answer.
//!
//! Found by their form, without a model: e-mail addresses, telephone numbers, IBANs, card numbers, IP addresses, addresses that
//! carry a password, and long runs of digits. Names and streets are not found. See [`find`] for the forms.

mod find;

use std::collections::HashSet;

pub use find::{Kind, pieces};

/// The placeholders of one question: the same piece has the same one throughout.
#[derive(Debug, Default)]
pub struct Mask {
    /// What looks like a placeholder and stands in the question already.
    taken: HashSet<String>,
    /// Placeholder, what it stands for.
    known: Vec<(String, String)>,
    /// Numbers given, by kind.
    given: [usize; Kind::ALL.len()],
    /// Pieces that were replaced.
    pieces: u32,
}

impl Mask {
    /// For a question of these texts. All of them are looked at first: a placeholder must not be one that stands in them.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut taken = HashSet::new();
        for text in texts {
            for (at, _) in text.match_indices('<') {
                let rest = &text[at..];
                // No placeholder is longer.
                let end = rest.bytes().take(32).position(|b| b == b'>');
                if let Some(found) = end.and_then(|end| rest.get(..=end)) {
                    taken.insert(found.to_owned());
                }
            }
        }
        Self { taken, ..Self::default() }
    }

    /// A text of the question, as it goes out.
    pub fn mask(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        for found in pieces(text) {
            out.push_str(&text[at..found.from]);
            out.push_str(&self.placeholder(found.kind, &text[found.from..found.to]));
            at = found.to;
        }
        out.push_str(&text[at..]);
        out
    }

    fn placeholder(&mut self, kind: Kind, piece: &str) -> String {
        self.pieces += 1;
        if let Some((placeholder, _)) = self.known.iter().find(|(_, known)| known == piece) {
            return placeholder.clone();
        }
        let given = &mut self.given[kind as usize];
        let placeholder = loop {
            *given += 1;
            let placeholder = format!("<{}_{given}>", kind.name());
            if !self.taken.contains(&placeholder) {
                break placeholder;
            }
        };
        self.known.push((placeholder.clone(), piece.to_owned()));
        placeholder
    }

    /// Pieces that were replaced so far.
    pub const fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Each placeholder with what it stands for.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::replace::Replacer;
    use proptest::prelude::*;

    fn masked(text: &str) -> String {
        Mask::new([text]).mask(text)
    }

    #[test]
    fn each_form_is_found_and_what_only_looks_like_it_is_not() {
        for (text, want) in [
            ("write to Ann.B+x@mail.example.co.uk.", "write to <EMAIL_1>."),
            ("<ann@example.com>, (bob@example.com)", "<<EMAIL_1>>, (<EMAIL_2>)"),
            ("jürgen@müller.de", "<EMAIL_1>"),
            ("me @ home, a@b, @handle", "me @ home, a@b, @handle"),
            ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN <IBAN_1> please"),
            ("gb82west12345698765432!", "<IBAN_1>!"),
            ("GB82 WEST 1234 5698 7654 33", "GB82 WEST <NUMBER_1>"),
            ("card 4111 1111 1111 1111, 4111-1111-1111-1111", "card <CARD_1>, <CARD_2>"),
            ("378282246310005", "<CARD_1>"),
            ("from 192.168.0.17:8080 and 2001:db8::ff00:42:8329", "from <IP_1>:8080 and <IP_2>"),
            (
                "version 1.2.3, at 12:30:15, std::mem::take, 300.1.1.1",
                "version 1.2.3, at 12:30:15, std::mem::take, 300.1.1.1",
            ),
            ("call +49 (30) 1234-5678 or 030 / 123 45 67", "call <PHONE_1> or <PHONE_2>"),
            ("(415) 555-2671, 415-555-2671, 415.555.2671", "<PHONE_1>, <PHONE_2>, <PHONE_3>"),
            (
                "on 2024-01-15, in 2019-2023, 1,000.00 for 250 of 1000",
                "on 2024-01-15, in 2019-2023, 1,000.00 for 250 of 1000",
            ),
            ("https://me:pass@host.com/x?y=1, ok", "<URL_1>, ok"),
            ("https://host.com/@me and postgres://u@h/db", "https://host.com/@me and <URL_1>"),
            (
                "account 12345678, pi 3.14159265358979, 1234567",
                "account <NUMBER_1>, pi 3.14159265358979, 1234567",
            ),
            ("ssn 178-05-1120", "ssn <NUMBER_1>"),
        ] {
            assert_eq!(masked(text), want, "{text}");
        }
    }

    #[test]
    fn one_piece_has_one_placeholder_throughout_and_those_that_stand_there_are_left_alone() {
        let texts = ["mail a@b.cd or <EMAIL_1>", "a@b.cd and x@y.zw"];
        let mut mask = Mask::new(texts);
        let got = texts.map(|text| mask.mask(text));
        assert_eq!(got, ["mail <EMAIL_2> or <EMAIL_1>", "<EMAIL_2> and <EMAIL_3>"]);
        assert_eq!(mask.pieces(), 3);
        let answer = "tell <EMAIL_3>, not <EMAIL_1> <EMAIL_4>";
        let mut back = Replacer::new(mask.pairs().to_vec());
        assert_eq!(back.whole(answer), "tell x@y.zw, not <EMAIL_1> <EMAIL_4>");
    }

    fn text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("ann@example.com".to_owned()),
            Just("DE89 3704 0044 0532 0130 00".to_owned()),
            Just("4111 1111 1111 1111".to_owned()),
            Just("+49 30 1234567".to_owned()),
            Just("10.0.0.1".to_owned()),
            Just("fe80::1:2".to_owned()),
            Just("ftp://u:p@h/x".to_owned()),
            "[0-9]{1,20}",
            "<(EMAIL|IBAN|CARD|IP|PHONE|URL|NUMBER)_[0-3]>?",
            "[@:./+<>()0-9a-fA-F _-]{0,12}",
            any::<String>(),
        ];
        prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn what_is_reversed_is_what_was_masked(a in text(), b in text()) {
            let mut mask = Mask::new([a.as_str(), b.as_str()]);
            for text in [&a, &b] {
                let out = mask.mask(text);
                let mut back = Replacer::new(mask.pairs().to_vec());
                prop_assert_eq!(&back.whole(&out), text);
            }
        }

        #[test]
        fn nothing_that_is_masked_needs_escaping_in_json(text in text()) {
            let mut mask = Mask::new([text.as_str()]);
            mask.mask(&text);
            for (_, piece) in mask.pairs() {
                prop_assert_eq!(serde_json::to_string(piece).unwrap(), format!("\"{piece}\""));
            }
        }
    }
}
