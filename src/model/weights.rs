//! Weights in safetensors, one file or sharded, memory-mapped; read as f32.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;

use super::{ModelError, files};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A safetensors file, mapped, with its header checked against its length.
#[derive(Debug)]
struct Shard {
    file: PathBuf,
    map: Mmap,
    header: Metadata,
    /// Where the tensors' bytes begin.
    data: usize,
}

impl Shard {
    fn open(dir: &Path, name: &str) -> Result<Option<Self>, ModelError> {
        let Some((file, path)) = files::open(dir, name)? else { return Ok(None) };
        if file.metadata().map_err(|e| ModelError::io(&path, e))?.len() < 8 {
            return Err(ModelError::file(&path, "is not a safetensors file: shorter than its header"));
        }
        // SAFETY: the map is read-only. Model files are not written in place (they appear by rename); a file that somebody
        // cuts while it is read would end the process with SIGBUS, which only its own run suffers.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| ModelError::io(&path, e))?;
        let (header_len, header) = SafeTensors::read_metadata(&map).map_err(|e| {
            ModelError::file(
                &path,
                format!("is not a whole safetensors file: {e}; download or copy it again"),
            )
        })?;
        Ok(Some(Self { file: path, map, header, data: 8 + header_len }))
    }
}

/// The tensors of a model's folder, or of one file.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<Shard>,
    /// Tensor to shard.
    place: BTreeMap<String, usize>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        if let Some(shard) = Shard::open(dir, SINGLE)? {
            return Ok(Self::single(shard));
        }
        let Some(index) = files::read_json(dir, INDEX)? else {
            let other =
                ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "consolidated.00.pth"]
                    .into_iter()
                    .find(|name| dir.join(name).exists());
            let message = match other {
                Some(name) => format!("is missing; only safetensors are read, and this folder has {name}"),
                None => format!("is missing, and so is {INDEX}"),
            };
            return Err(ModelError::file(&dir.join(SINGLE), message));
        };
        Self::sharded(dir, &index)
    }

    /// Opens one safetensors file: an adapter, a reference.
    pub fn open_file(path: &Path) -> Result<Self, ModelError> {
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            return Err(ModelError::file(path, "is not a file name"));
        };
        match Shard::open(dir, name)? {
            Some(shard) => Ok(Self::single(shard)),
            None => Err(ModelError::file(path, "is missing")),
        }
    }

    fn single(shard: Shard) -> Self {
        let place = shard.header.tensors().into_keys().map(|name| (name, 0)).collect();
        Self { shards: vec![shard], place }
    }

    fn sharded(dir: &Path, index: &Value) -> Result<Self, ModelError> {
        let file = dir.join(INDEX);
        let Some(map) = index.get("weight_map").and_then(Value::as_object).filter(|m| !m.is_empty()) else {
            return Err(ModelError::key(&file, "weight_map", "is missing or empty: no tensor has a file"));
        };
        let mut shards: Vec<Shard> = Vec::new();
        let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
        let mut place = BTreeMap::new();
        for (tensor, name) in map {
            let Some(name) = name.as_str() else {
                return Err(ModelError::tensor(&file, tensor, format!("{name} is not a file name")));
            };
            let at = match by_name.get(name) {
                Some(&at) => at,
                None => {
                    let Some(shard) = Shard::open(dir, name)? else {
                        let message = format!("is missing; {INDEX} says that it holds `{tensor}`");
                        return Err(ModelError::file(&dir.join(name), message));
                    };
                    shards.push(shard);
                    by_name.insert(name, shards.len() - 1);
                    shards.len() - 1
                }
            };
            let shard = &shards[at];
            if shard.header.info(tensor).is_none() {
                let message = format!("is not in this file, though {INDEX} says so");
                return Err(ModelError::tensor(&shard.file, tensor, message));
            }
            place.insert(tensor.clone(), at);
        }
        Ok(Self { shards, place })
    }

    /// All tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.find(name)?.1.shape)
    }

    /// `F32`, `BF16`, ...
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        Some(self.find(name)?.1.dtype)
    }

    /// Bytes of all tensors on disk.
    pub fn bytes(&self) -> u64 {
        self.names()
            .filter_map(|n| self.find(n))
            .map(|(_, t)| (t.data_offsets.1 - t.data_offsets.0) as u64)
            .sum()
    }

    /// Free text of the file's header (`__metadata__`), of the first shard.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.shards.first()?.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// That the tensor is there, in a type that can be read, with this shape. To be asked before memory is taken for it.
    pub fn check(&self, name: &str, expect: &[usize]) -> Result<(), ModelError> {
        self.float_bytes(name, expect).map(|_| ())
    }

    /// Reads a tensor of f32, f16 or bf16 into `out`, which has as many values as `expect` says.
    pub fn read_f32(&self, name: &str, expect: &[usize], out: &mut [f32]) -> Result<(), ModelError> {
        let (shard, dtype, bytes) = self.float_bytes(name, expect)?;
        if out.len() * dtype.bitsize() / 8 != bytes.len() {
            return Err(ModelError::tensor(
                &shard.file,
                name,
                format!("{expect:?} does not fit {} values", out.len()),
            ));
        }
        to_f32(dtype, bytes, out);
        Ok(())
    }

    /// As [`Weights::read_f32`], into fresh memory.
    pub fn read_vec(&self, name: &str, expect: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.check(name, expect)?;
        let mut out = vec![0.0; expect.iter().product()];
        self.read_f32(name, expect, &mut out)?;
        Ok(out)
    }

    /// Reads whole numbers (i32, i64, u32, u8 or bool): token ids, masks.
    pub fn read_ints(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>), ModelError> {
        let (shard, info) = self.find(name).ok_or_else(|| self.missing(name))?;
        let bytes = shard.bytes(info.data_offsets);
        let values = match info.dtype {
            Dtype::I64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            Dtype::I32 => bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
            Dtype::U32 => bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b).into()).collect(),
            Dtype::U8 | Dtype::BOOL => bytes.iter().map(|&b| b.into()).collect(),
            other => {
                let message = format!("has type {other:?}; expected I64, I32, U32, U8 or BOOL");
                return Err(ModelError::tensor(&shard.file, name, message));
            }
        };
        Ok((info.shape.clone(), values))
    }

    fn find(&self, name: &str) -> Option<(&Shard, &safetensors::tensor::TensorInfo)> {
        let shard = self.shards.get(*self.place.get(name)?)?;
        Some((shard, shard.header.info(name)?))
    }

    fn missing(&self, name: &str) -> ModelError {
        let file = self.shards.first().map(|s| s.file.as_path()).unwrap_or(Path::new(SINGLE));
        let file = if self.shards.len() > 1 { file.with_file_name(INDEX) } else { file.to_path_buf() };
        let near = self
            .names()
            .map(|n| (strsim::levenshtein(n, name), n))
            .min()
            .map(|(_, n)| format!("; the nearest of {} names is `{n}`", self.place.len()))
            .unwrap_or_default();
        ModelError::tensor(&file, name, format!("is missing{near}"))
    }

    fn float_bytes(&self, name: &str, expect: &[usize]) -> Result<(&Shard, Dtype, &[u8]), ModelError> {
        let (shard, info) = self.find(name).ok_or_else(|| self.missing(name))?;
        if info.shape != expect {
            let message = format!("has shape {:?}; config.json asks for {expect:?}", info.shape);
            return Err(ModelError::tensor(&shard.file, name, message));
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let message = format!("has type {:?}; supported: F32, F16, BF16", info.dtype);
            return Err(ModelError::tensor(&shard.file, name, message));
        }
        Ok((shard, info.dtype, shard.bytes(info.data_offsets)))
    }
}

impl Shard {
    /// The header was checked against the file's length when it was opened.
    fn bytes(&self, (from, to): (usize, usize)) -> &[u8] {
        self.map.get(self.data + from..self.data + to).unwrap_or_default()
    }
}

/// The bytes stand anywhere in the file, so they are not aligned; f16 goes through a small aligned buffer for the
/// conversion with SIMD.
fn to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Dtype::BF16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
        _ => {
            let mut bits = [0_u16; 1024];
            for (out, bytes) in out.chunks_mut(1024).zip(bytes.chunks(2048)) {
                let bits = &mut bits[..out.len()];
                for (h, b) in bits.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *h = u16::from_le_bytes(*b);
                }
                bits.reinterpret_cast::<half::f16>().convert_to_f32_slice(out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
