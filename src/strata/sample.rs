//! Stratified samples.

use std::collections::BTreeMap;

use crate::domain::row::Part;

/// A row that may be drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawable<'a> {
    pub id: &'a str,
    pub stratum: &'a str,
    pub part: Option<Part>,
}

/// `per` rows of each stratum (all, where it has fewer), of one part or of all; stratum by stratum, in the order of a seeded hash.
/// A larger `per` only adds rows.
pub fn draw<'a>(rows: &[Drawable<'a>], per: usize, part: Option<Part>, seed: u64) -> Vec<&'a str> {
    let mut by_stratum: BTreeMap<&str, Vec<([u8; 32], &'a str)>> = BTreeMap::new();
    for row in rows.iter().filter(|row| part.is_none() || row.part == part) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(b"sample").update(row.id.as_bytes());
        by_stratum.entry(row.stratum).or_default().push((*hasher.finalize().as_bytes(), row.id));
    }
    by_stratum
        .into_values()
        .flat_map(|mut rows| {
            rows.sort_unstable();
            rows.into_iter().take(per).map(|(_, id)| id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stratum_gives_its_number_and_more_asked_only_adds() {
        let ids: Vec<String> = (0..50).map(|i| format!("r{i}")).collect();
        let rows: Vec<Drawable<'_>> = ids
            .iter()
            .enumerate()
            .map(|(i, id)| Drawable {
                id,
                stratum: if i < 3 { "few" } else { "many" },
                part: Some(if i % 2 == 0 { Part::Eval } else { Part::Train }),
            })
            .collect();
        let five = draw(&rows, 5, None, 7);
        assert_eq!(five.len(), 3 + 5);
        let six = draw(&rows, 6, None, 7);
        assert!(five.iter().all(|id| six.contains(id)) && six.len() == 9);
        assert_ne!(five, draw(&rows, 5, None, 8));
        let eval = draw(&rows, 100, Some(Part::Eval), 7);
        assert_eq!(eval.len(), 25);
        assert!(eval.iter().all(|id| id[1..].parse::<usize>().unwrap() % 2 == 0));
    }
}
