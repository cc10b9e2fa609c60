//! Personal data in a text: what [`crate::backend::mask`] hides from endpoints, without mere long numbers, and national ids that carry a
//! checksum. Kind and place are told, never the piece itself.

use crate::backend::mask::{Kind, pieces};

/// Kind, and characters before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Personal {
    pub what: &'static str,
    pub at: usize,
}

/// The first `most` pieces.
pub fn personal(text: &str, most: usize) -> Vec<Personal> {
    // All of them have a digit or an @.
    if !text.bytes().any(|b| b.is_ascii_digit() || b == b'@') {
        return Vec::new();
    }
    let mut spans: Vec<(usize, &'static str)> = pieces(text)
        .into_iter()
        .filter_map(|piece| Some((piece.from, named(piece.kind, text.get(piece.from..piece.to)?)?)))
        .collect();
    for (at, word) in words(text) {
        if let Some(what) = national_id(word)
            && !spans.iter().any(|(from, _)| *from == at)
        {
            spans.push((at, what));
        }
    }
    spans.sort_unstable();
    spans.truncate(most);
    spans.into_iter().map(|(from, what)| Personal { what, at: text[..from].chars().count() }).collect()
}

fn named(kind: Kind, piece: &str) -> Option<&'static str> {
    Some(match kind {
        Kind::Url => "address with a login",
        Kind::Email => "e-mail address",
        Kind::Iban => "IBAN",
        Kind::Card => "card number",
        // Of no machine that could be somebody's.
        Kind::Ip if matches!(piece, "0.0.0.0" | "127.0.0.1" | "255.255.255.255") => return None,
        Kind::Ip => "IP address",
        Kind::Phone => "telephone number",
        // Order numbers are as long; ids are told by their checksum.
        Kind::Number => return None,
    })
}

/// Runs of letters, digits, points and dashes, with where they begin.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let stop = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-');
    let begin = text.as_ptr() as usize;
    text.split(stop).map(move |word| {
        let word = word.trim_matches(['.', '-']);
        (word.as_ptr() as usize - begin, word)
    })
}

/// Ids whose forms leave little to chance: a checksum of at least one in 11 on top of a form that other numbers seldom have.
fn national_id(word: &str) -> Option<&'static str> {
    if !(9..=18).contains(&word.len()) || !word.is_ascii() {
        return None;
    }
    let digits = |text: &str| -> Option<Vec<u32>> { text.chars().map(|c| c.to_digit(10)).collect() };
    let bytes = word.as_bytes();
    // Brazil's CPF, in its written form: nnn.nnn.nnn-nn.
    if word.len() == 14
        && bytes.get(3) == Some(&b'.')
        && bytes.get(7) == Some(&b'.')
        && bytes.get(11) == Some(&b'-')
    {
        let number = digits(&word.replace(['.', '-'], ""))?;
        let check = |n: usize| {
            let sum: u32 =
                number.iter().take(n).zip((2..=n as u32 + 1).rev()).map(|(d, weight)| d * weight).sum();
            number.get(n) == Some(&((sum * 10 % 11) % 10))
        };
        return (check(9) && check(10) && number.iter().any(|d| *d != number[0])).then_some("CPF");
    }
    // China's resident identity number: region, date of birth, order, and a check of ISO 7064 (MOD 11-2).
    if word.len() == 18 {
        let (head, last) = word.split_at(17);
        let head = digits(head)?;
        let number =
            |range: std::ops::Range<usize>| head.get(range).into_iter().flatten().fold(0, |n, d| n * 10 + d);
        let born = (1900..2100).contains(&number(6..10))
            && (1..=12).contains(&number(10..12))
            && (1..=31).contains(&number(12..14));
        let sum = head.iter().fold(0, |sum, d| (sum + d) * 2 % 11);
        let check = (12 - sum) % 11;
        let want = char::from_digit(check, 10).unwrap_or('X');
        return (born && last.eq_ignore_ascii_case(&want.to_string())).then_some("resident identity number");
    }
    // Spain's DNI and NIE: eight digits, or X, Y, Z and seven, and a letter for the number modulo 23.
    if word.len() == 9 {
        let (head, last) = word.split_at(8);
        let head = match bytes.first()? {
            b'X' => format!("0{}", &head[1..]),
            b'Y' => format!("1{}", &head[1..]),
            b'Z' => format!("2{}", &head[1..]),
            _ => head.to_owned(),
        };
        let number = digits(&head)?.into_iter().fold(0u32, |n, d| n * 10 + d);
        let letter = "TRWAGMYFPDXBNJZSQVHLCKE".as_bytes().get(number as usize % 23)?;
        return (last.as_bytes() == [*letter]).then_some("DNI");
    }
    // France's number of social security: 13 digits and the complement of their remainder modulo 97.
    if word.len() == 15 && matches!(bytes.first(), Some(b'1' | b'2')) {
        let all = digits(word)?.into_iter().fold(0u64, |n, d| n * 10 + u64::from(d));
        let month = all / 10_000_000_000 % 100;
        return ((1..=12).contains(&month) && all % 100 == 97 - all / 100 % 97)
            .then_some("social security number");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds(text: &str) -> Vec<&'static str> {
        personal(text, 9).into_iter().map(|p| p.what).collect()
    }

    #[test]
    fn each_kind_is_found_with_its_place_and_what_only_looks_like_it_is_not() {
        for (text, want) in [
            ("write to ann@example.com", vec!["e-mail address"]),
            ("IBAN DE89 3704 0044 0532 0130 00", vec!["IBAN"]),
            ("IBAN GB82 WEST 1234 5698 7654 33", vec![]),
            ("card 4111 1111 1111 1111", vec!["card number"]),
            ("card 4111 1111 1111 1112", vec![]),
            ("from 203.0.113.9 to 127.0.0.1", vec!["IP address"]),
            ("+49 30 1234567", vec!["telephone number"]),
            ("order 123456789012, on 2024-01-15", vec![]),
            ("CPF 111.444.777-35", vec!["CPF"]),
            ("CPF 111.444.777-36 or 111.111.111-11", vec![]),
            ("DNI 12345678Z, NIE X1234567L.", vec!["DNI", "DNI"]),
            ("DNI 12345678A", vec![]),
            ("id 11010519491231002X", vec!["resident identity number"]),
            ("id 110105194912310021", vec![]),
            ("nir 255081416800063", vec!["social security number"]),
            ("nir 255081416800064", vec![]),
            ("nothing here, 42", vec![]),
        ] {
            assert_eq!(kinds(text), want, "{text}");
        }
        assert_eq!(personal("ü: ann@example.com", 1)[0].at, 3);
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "([0-9A-Zü@.: -]{0,20}|\\PC{0,10}){0,4}") {
            let all = personal(&text, usize::MAX);
            prop_assert!(all.iter().all(|p| p.at < text.chars().count()));
        }
    }
}
