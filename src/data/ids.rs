//! Row ids: the `id` field where it is there and unique, else the content hash with the number of its occurrence.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io;

use rayon::prelude::*;

use super::canonical::HASH_BYTES;
use super::index::{id_key, id_keys};

/// Longest id that is taken from the data, in bytes.
pub(super) const MAX_ID: usize = 200;

/// Hex digits of the content hash in an id.
const DIGITS: usize = 16;

/// The id of a row that has none of its own, but for what its other occurrences add.
fn of_content(hash: u64) -> String {
    format!("{hash:0width$x}", width = DIGITS)
}

/// First 8 bytes of a content hash, big-endian, so that their hex is the hash's beginning.
fn first_bytes(hash: &[u8; HASH_BYTES]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}

/// The keys of the ids that rows most likely get, by content hash and own id; worked out where many rows are read side by side.
pub(super) fn likely_keys(rows: &[(&[u8; HASH_BYTES], Option<&str>)]) -> Vec<u64> {
    let by_content = |hash| Cow::Owned(of_content(first_bytes(hash)));
    let ids: Vec<Cow<'_, str>> =
        rows.iter().map(|(hash, own)| own.map_or_else(|| by_content(hash), Cow::Borrowed)).collect();
    id_keys(&ids.iter().map(AsRef::as_ref).collect::<Vec<_>>())
}

/// What is gathered while rows are read: about 18 bytes per row, and the ids themselves.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// [`first_bytes`] of each content hash.
    hashes: Vec<u64>,
    /// [`likely_keys`]
    keys: Vec<u64>,
    /// Own ids, one after the other; a length of 0 is none.
    text: String,
    lengths: Vec<u8>,
}

const _: () = assert!(MAX_ID <= u8::MAX as usize);

impl Ids {
    pub fn push(&mut self, hash: &[u8; HASH_BYTES], own: Option<&str>, key: u64) {
        self.hashes.push(first_bytes(hash));
        self.keys.push(key);
        let own = own.unwrap_or_default();
        self.text.push_str(own);
        self.lengths.push(own.len() as u8);
    }

    fn each_own(&self, mut each: impl FnMut(usize, &str)) {
        let mut start = 0;
        for (row, length) in self.lengths.iter().enumerate() {
            let end = start + usize::from(*length);
            if let Some(id) = self.text.get(start..end).filter(|id| !id.is_empty()) {
                each(row, id);
            }
            start = end;
        }
    }

    /// Decides for every row which id it has.
    pub fn assign(mut self) -> Assigned {
        let own = |row: &usize| self.lengths[*row] > 0;
        let mut keys: Vec<(u64, u32)> =
            (0..self.keys.len()).filter(own).map(|row| (self.keys[row], row as u32)).collect();
        let with_own = keys.len();
        keys.par_sort_unstable();
        // Rows that go by their content: no id, or one that another row has too.
        let mut by_hash: Vec<bool> = self.lengths.iter().map(|l| *l == 0).collect();
        let mut shared = 0;
        for group in keys.chunk_by(|a, b| a.0 == b.0).filter(|g| g.len() > 1) {
            shared += group.len();
            for (_, row) in group {
                by_hash[*row as usize] = true;
            }
        }
        self.yield_to_hashes(&mut by_hash);
        if by_hash.contains(&true) {
            keys = Vec::new();
        }

        let mut hashed: Vec<(u64, u32)> = (0..by_hash.len())
            .filter(|row| by_hash[*row])
            .map(|row| (self.hashes[row], row as u32))
            .collect();
        hashed.par_sort_unstable();
        let mut occurrences = HashMap::new();
        for group in hashed.chunk_by(|a, b| a.0 == b.0) {
            for (n, (_, row)) in group.iter().enumerate().skip(1) {
                occurrences.insert(*row, n as u32 + 1);
            }
        }
        self.lengths.shrink_to_fit();
        Assigned { ids: self, by_hash, occurrences, with_own, shared, keys }
    }

    /// An id that looks like the hash id of another row gives way, so that ids stay unique whatever the data says.
    fn yield_to_hashes(&self, by_hash: &mut [bool]) {
        let mut alike: Vec<(usize, u64)> = Vec::new();
        self.each_own(|row, id| {
            let digits = id.split('-').next().unwrap_or_default();
            if digits.len() == DIGITS
                && !by_hash[row]
                && let Ok(hash) = u64::from_str_radix(digits, 16)
            {
                alike.push((row, hash));
            }
        });
        if alike.is_empty() {
            return;
        }
        let mut taken: HashSet<u64> =
            (0..by_hash.len()).filter(|r| by_hash[*r]).map(|r| self.hashes[r]).collect();
        // One that gives way takes its hash, which may be what another looks like; after a few rounds all give way.
        for round in 0.. {
            let before = alike.len();
            alike.retain(|(row, hash)| {
                let yields = round > 8 || taken.contains(hash);
                if yields {
                    by_hash[*row] = true;
                    taken.insert(self.hashes[*row]);
                }
                !yields
            });
            if alike.len() == before || alike.is_empty() {
                return;
            }
        }
    }
}

/// Every row with its id.
pub(super) struct Assigned {
    ids: Ids,
    by_hash: Vec<bool>,
    /// From the second occurrence of a content on.
    occurrences: HashMap<u32, u32>,
    with_own: usize,
    shared: usize,
    /// Keys and rows, sorted; empty where some row does not go by its own id.
    keys: Vec<(u64, u32)>,
}

impl Assigned {
    /// The keys with their rows, sorted, where they are known already.
    pub fn table(&self) -> Option<&[(u64, u32)]> {
        (!self.keys.is_empty()).then_some(&self.keys)
    }

    /// The ids in the order of the rows, each with its [`id_key`].
    pub fn each(&self, put: &mut dyn FnMut(&str, u64) -> io::Result<()>) -> io::Result<()> {
        let mut start = 0;
        for (row, length) in self.ids.lengths.iter().enumerate() {
            let end = start + usize::from(*length);
            let (key, own) = (self.ids.keys[row], *length > 0);
            if self.by_hash[row] {
                let id = of_content(self.ids.hashes[row]);
                match self.occurrences.get(&(row as u32)) {
                    None if own => put(&id, id_key(&id))?,
                    None => put(&id, key)?,
                    Some(n) => {
                        let id = format!("{id}-{n}");
                        put(&id, id_key(&id))?;
                    }
                }
            } else {
                put(self.ids.text.get(start..end).unwrap_or_default(), key)?;
            }
            start = end;
        }
        Ok(())
    }

    /// What a person should know about the `id` field.
    pub fn warning(&self) -> Option<String> {
        (self.shared > 0).then(|| {
            format!(
                "{} of {} rows have an `id` that another row has too; these rows are known by their content instead",
                self.shared, self.with_own
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assign(rows: &[(u8, Option<&str>)]) -> (Vec<String>, Option<String>) {
        let mut ids = Ids::default();
        for (content, own) in rows {
            let hash = [*content; HASH_BYTES];
            ids.push(&hash, *own, likely_keys(&[(&hash, *own)])[0]);
        }
        let assigned = ids.assign();
        let mut out = Vec::new();
        assigned
            .each(&mut |id, key| {
                assert_eq!(key, id_key(id));
                out.push(id.to_owned());
                Ok(())
            })
            .unwrap();
        (out, assigned.warning())
    }

    #[test]
    fn unique_ids_are_kept_and_shared_or_absent_ones_give_way_to_the_content() {
        let (ids, warning) =
            assign(&[(1, Some("a")), (2, Some("b")), (3, Some("b")), (4, None), (4, None), (4, None)]);
        let hash = |n: u8| format!("{n:02x}").repeat(8);
        assert_eq!(ids, ["a".into(), hash(2), hash(3), hash(4), hash(4) + "-2", hash(4) + "-3"]);
        assert!(warning.unwrap().starts_with("2 of 3 rows"));
    }

    proptest! {
        #[test]
        fn ids_are_unique_whatever_the_id_fields_say(rows in prop::collection::vec((0u8..6, prop::option::of("(0[0-6]){8}(-[2-4])?|[ab]")), 0..40)) {
            let borrowed: Vec<(u8, Option<&str>)> = rows.iter().map(|(c, id)| (*c, id.as_deref())).collect();
            let (ids, _) = assign(&borrowed);
            let distinct: HashSet<&String> = ids.iter().collect();
            prop_assert_eq!(distinct.len(), rows.len());
        }

        #[test]
        fn ids_of_crafted_hash_form_stay_unique(rows in prop::collection::vec((0u8..4, 0u8..4, 0u8..4), 0..30)) {
            let own: Vec<String> = rows.iter().map(|(_, id, n)| {
                let hash = format!("{id:02x}").repeat(8);
                if *n == 0 { hash } else { format!("{hash}-{n}") }
            }).collect();
            let borrowed: Vec<(u8, Option<&str>)> = rows.iter().zip(&own).map(|((c, ..), id)| (*c, Some(id.as_str()))).collect();
            let (ids, _) = assign(&borrowed);
            let distinct: HashSet<&String> = ids.iter().collect();
            prop_assert_eq!(distinct.len(), rows.len());
        }
    }
}
