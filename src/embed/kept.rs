//! A fitted embedder as a file, so that texts get the same vectors for as long as it is used: safetensors with `features` (hashes, u64) in
//! the order of their columns, `idf` (f32), `basis` (features, dimensions; f32) and `rarest` (f32, 1).

use anyhow::{Context as _, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::linear::Dense;
use super::{Embedder, Vocabulary};

impl Embedder {
    /// The same embedder is the same bytes.
    ///
    /// # Errors
    /// More than a file can hold.
    pub fn to_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let mut known: Vec<(u32, u64, f32)> =
            self.vocabulary.known.iter().map(|(hash, (column, idf))| (*column, *hash, *idf)).collect();
        known.sort_unstable_by_key(|(column, ..)| *column);
        let features: Vec<u8> = known.iter().flat_map(|(_, hash, _)| hash.to_le_bytes()).collect();
        let idf: Vec<u8> = known.iter().flat_map(|(.., idf)| idf.to_le_bytes()).collect();
        let basis: Vec<u8> = self.basis.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        let rarest = self.vocabulary.rarest.to_le_bytes();
        let n = known.len();
        let view = |kind, shape: Vec<usize>, bytes| TensorView::new(kind, shape, bytes);
        let tensors = [
            ("basis", view(Dtype::F32, vec![n, self.basis.columns], &basis)?),
            ("features", view(Dtype::U64, vec![n], &features)?),
            ("idf", view(Dtype::F32, vec![n], &idf)?),
            ("rarest", view(Dtype::F32, vec![1], &rarest)?),
        ];
        Ok(safetensors::serialize(tensors, None)?)
    }

    /// `name` is what errors call it.
    ///
    /// # Errors
    /// Bytes that [`Self::to_bytes`] did not make.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> anyhow::Result<Self> {
        let file = SafeTensors::deserialize(bytes).with_context(|| format!("{name}: no safetensors file"))?;
        let tensor = |which: &str, kind: Dtype| -> anyhow::Result<(Vec<usize>, &[u8])> {
            let view =
                file.tensor(which).with_context(|| format!("{name}: a fitted embedder has `{which}`"))?;
            ensure!(view.dtype() == kind, "{name}: `{which}` is {:?}, not {kind:?}", view.dtype());
            Ok((view.shape().to_vec(), view.data()))
        };
        let floats = |which: &str| -> anyhow::Result<(Vec<usize>, Vec<f32>)> {
            let (shape, data) = tensor(which, Dtype::F32)?;
            let values: Vec<f32> =
                data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            ensure!(values.iter().all(|v| v.is_finite()), "{name}: a value of `{which}` is no number");
            Ok((shape, values))
        };
        let (shape, data) = floats("basis")?;
        let (_, idf) = floats("idf")?;
        let (_, rarest) = floats("rarest")?;
        let (_, hashes) = tensor("features", Dtype::U64)?;
        let hashes: Vec<u64> =
            hashes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let n = hashes.len();
        let columns = match shape.as_slice() {
            [rows, columns] if *rows == n && idf.len() == n && rarest.len() == 1 => *columns,
            _ => anyhow::bail!("{name}: {n} features with a basis of {shape:?} and {} weights", idf.len()),
        };
        let known = hashes.into_iter().zip(idf).enumerate().map(|(at, (hash, idf))| (hash, (at as u32, idf)));
        let vocabulary =
            Vocabulary { known: known.collect(), rarest: rarest.first().copied().unwrap_or(1.0) };
        ensure!(vocabulary.known.len() == n, "{name}: a feature stands there twice");
        Ok(Self { vocabulary, basis: Dense { columns, data } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_embedder_gives_the_same_vectors_and_a_damaged_file_is_refused() {
        let texts = ["my card is lost", "the card is late", "a refund please", "no refund came"];
        let embedder = Embedder::fit(&texts, 7);
        let bytes = embedder.to_bytes().unwrap();
        let back = Embedder::from_bytes("e", &bytes).unwrap();
        assert_eq!(back, embedder);
        assert_eq!(back.to_bytes().unwrap(), bytes);
        assert_eq!(back.embed(&["lost card"]), embedder.embed(&["lost card"]));
        let empty = Embedder::fit::<&str>(&[], 7);
        assert_eq!(Embedder::from_bytes("e", &empty.to_bytes().unwrap()).unwrap(), empty);

        let said = |bytes: &[u8]| format!("{:#}", Embedder::from_bytes("e.safetensors", bytes).unwrap_err());
        assert!(said(b"nonsense").contains("e.safetensors: no safetensors"));
        assert!(said(&bytes[..bytes.len() - 9]).contains("e.safetensors"));
        let mut nan = bytes.clone();
        let end = nan.len();
        nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(said(&nan).contains("no number"), "{}", said(&nan));
    }
}
