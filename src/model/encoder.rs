//! Encoders of the BERT family (BERT, RoBERTa, XLM-RoBERTa, DistilBERT): a text to one vector of length 1.
//!
//! A folder of Hugging Face's, or of sentence-transformers' ([`super::sentence`]).
//!
//! Post-norm blocks (Devlin et al. 2019): `x = norm(x + attention(x)); x = norm(x + W2 act(W1 x))`. Texts of a batch are packed, not padded: the
//! linear layers see all of their tokens at once (tokens, hidden), attention sees each text alone. So a vector does not hang on its neighbours.

use std::path::Path;

use serde_json::Value;

use super::sentence::{Pooling, Sentence, to_length_one};
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use super::{ModelError, files};
use crate::ops::{self, Mat, MatMut, Par, Write, add_bias, matmul};

const CONFIG: &str = "config.json";
/// Sizes beyond which a configuration is a slip, or meant to take the memory.
const WIDEST: usize = 1 << 14;
const LAYERS: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activation {
    /// `x Phi(x)`
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    Relu,
}

#[derive(Clone, Debug)]
struct Config {
    hidden: usize,
    layers: usize,
    heads: usize,
    inner: usize,
    vocab: usize,
    positions: usize,
    /// Of the first token.
    first_position: usize,
    types: usize,
    eps: f32,
    activation: Activation,
    distil: bool,
}

/// (outputs, inputs) and its bias.
#[derive(Debug)]
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Norm {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    after_attention: Norm,
    up: Linear,
    down: Linear,
    after_feed: Norm,
}

/// An encoder with its tokenizer.
#[derive(Debug)]
pub struct Encoder {
    config: Config,
    tokenizer: Tokenizer,
    sentence: Sentence,
    /// (vocabulary, hidden), (positions, hidden), and the first of the token types.
    words: Vec<f32>,
    places: Vec<f32>,
    kind: Vec<f32>,
    norm: Norm,
    blocks: Vec<Block>,
}

impl Encoder {
    /// Whether a folder's `config.json` is an encoder's.
    pub fn is_one(dir: &Path) -> bool {
        let config = files::read_json(dir, CONFIG).ok().flatten();
        config.is_some_and(|c| {
            matches!(c["model_type"].as_str(), Some("bert" | "roberta" | "xlm-roberta" | "distilbert"))
        })
    }

    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        files::folder(dir)?;
        let config = Config::load(dir)?;
        let most = config.positions - config.first_position;
        let sentence = Sentence::load(dir, most)?;
        let tokenizer = Tokenizer::load(dir)?;
        let weights = Weights::open(dir)?;
        let source = Source { weights: &weights, prefix: prefix(&weights) };
        let (hidden, word) = (config.hidden, "embeddings.word_embeddings.weight");
        let words = source.vec(word, &[config.vocab, hidden])?;
        let places = source.vec("embeddings.position_embeddings.weight", &[config.positions, hidden])?;
        let kind = if config.types == 0 {
            vec![0.0; hidden]
        } else {
            let mut all = source.vec("embeddings.token_type_embeddings.weight", &[config.types, hidden])?;
            all.truncate(hidden);
            all
        };
        let norm = source.norm("embeddings.LayerNorm", hidden)?;
        let blocks = (0..config.layers).map(|at| source.block(&config, at)).collect::<Result<_, _>>()?;
        Ok(Self { config, tokenizer, sentence, words, places, kind, norm, blocks })
    }

    pub fn dimensions(&self) -> usize {
        self.config.hidden
    }

    /// How its texts are read, and its vectors made.
    pub fn sentence(&self) -> &Sentence {
        &self.sentence
    }

    /// Ids of a text, cut to the longest: what stands around it stays.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.sentence.tokens(&self.tokenizer, text)
    }

    /// One vector of length 1 for each text, in their order (texts, dimensions).
    pub fn embed(&self, texts: &[&str], par: Par) -> Result<Vec<f32>, ModelError> {
        let ids: Vec<Vec<u32>> = texts.iter().map(|text| self.tokens(text)).collect::<Result<_, _>>()?;
        let mut out = Vec::with_capacity(texts.len() * self.config.hidden);
        let states = self.states(&ids, par);
        let mut rows = states.chunks_exact(self.config.hidden);
        for ids in &ids {
            let mut vector = vec![0.0_f32; self.config.hidden];
            for (at, row) in rows.by_ref().take(ids.len()).enumerate() {
                if at == 0 || self.sentence.pooling == Pooling::Mean {
                    vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
            }
            // Where the vector only counts by its direction, sum and mean are the same.
            to_length_one(&mut vector);
            out.extend(vector);
        }
        Ok(out)
    }

    /// Last hidden states of packed texts (all tokens, hidden).
    fn states(&self, texts: &[Vec<u32>], par: Par) -> Vec<f32> {
        let (hidden, n) = (self.config.hidden, texts.iter().map(Vec::len).sum::<usize>());
        let mut x = vec![0.0; n * hidden];
        let ids = texts.iter().flat_map(|ids| ids.iter().enumerate());
        for (row, (at, id)) in x.chunks_exact_mut(hidden).zip(ids) {
            // Ids that the weights do not know are those of the first.
            let word = row_of(&self.words, *id as usize, hidden).or_else(|| row_of(&self.words, 0, hidden));
            let place = row_of(&self.places, at + self.config.first_position, hidden);
            for source in [word, place, Some(&self.kind[..])].into_iter().flatten() {
                row.iter_mut().zip(source).for_each(|(sum, x)| *sum += x);
            }
        }
        self.norm.apply(&mut x, self.config.eps);
        let inner = self.config.inner;
        let [mut q, mut k, mut v, mut mixed, mut y] = [(); 5].map(|()| vec![0.0; n * hidden]);
        let mut wide = vec![0.0; n * inner];
        for block in &self.blocks {
            block.query.apply(&x, &mut q, n, par);
            block.key.apply(&x, &mut k, n, par);
            block.value.apply(&x, &mut v, n, par);
            self.attend(texts, &q, &k, &v, &mut mixed, par);
            block.out.apply(&mixed, &mut y, n, par);
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
            block.after_attention.apply(&mut x, self.config.eps);
            block.up.apply(&x, &mut wide, n, par);
            self.config.activation.apply(&mut wide);
            block.down.apply(&wide, &mut y, n, par);
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
            block.after_feed.apply(&mut x, self.config.eps);
        }
        x
    }

    /// Softmax(q k' / sqrt(d)) v for each text and head.
    fn attend(&self, texts: &[Vec<u32>], q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], par: Par) {
        let (hidden, heads) = (self.config.hidden, self.config.heads);
        let width = hidden / heads;
        let scale = 1.0 / (width as f32).sqrt();
        let mut start = 0;
        for ids in texts {
            let n = ids.len();
            let rows = start..start + n * hidden;
            start = rows.end;
            let part = |all| Mat::new(all, n, hidden);
            let [q, k, v] = [q, k, v].map(|all| part(all.get(rows.clone()).unwrap_or_default()));
            let Some(out) = out.get_mut(rows) else { return };
            let mut scores = vec![0.0; n * n];
            for head in 0..heads {
                let cols = head * width..(head + 1) * width;
                let to = MatMut::new(&mut scores, n, n);
                matmul(to, Write::Set, scale, q.cols(cols.clone()), k.cols(cols.clone()).t(), par);
                ops::softmax(&mut scores, n);
                let to = MatMut::new(out, n, hidden).cols(cols.clone());
                matmul(to, Write::Set, 1.0, Mat::new(&scores, n, n), v.cols(cols), par);
            }
        }
    }
}

fn row_of(table: &[f32], at: usize, width: usize) -> Option<&[f32]> {
    table.get(at * width..(at + 1) * width)
}

impl Linear {
    /// `y = x W' + b`
    fn apply(&self, x: &[f32], y: &mut [f32], n: usize, par: Par) {
        let outputs = self.bias.len();
        let inputs = self.weight.len() / outputs.max(1);
        let weight = Mat::new(&self.weight, outputs, inputs);
        matmul(MatMut::new(y, n, outputs), Write::Set, 1.0, Mat::new(x, n, inputs), weight.t(), par);
        add_bias(MatMut::new(y, n, outputs), &self.bias);
    }
}

impl Norm {
    fn apply(&self, x: &mut [f32], eps: f32) {
        ops::layer_norm(x, &self.gain, &self.bias, eps);
    }
}

impl Activation {
    fn apply(self, all: &mut [f32]) {
        match self {
            Self::Gelu => ops::gelu(all),
            Self::GeluTanh => ops::gelu_tanh(all),
            Self::Relu => all.iter_mut().for_each(|x| *x = x.max(0.0)),
        }
    }
}

impl Config {
    fn load(dir: &Path) -> Result<Self, ModelError> {
        let file = dir.join(CONFIG);
        let config = files::read_json(dir, CONFIG)?.ok_or_else(|| ModelError::file(&file, "is missing"))?;
        let kind = config["model_type"].as_str().unwrap_or_default().to_owned();
        let distil = kind == "distilbert";
        if !matches!(kind.as_str(), "bert" | "roberta" | "xlm-roberta" | "distilbert") {
            let message =
                format!("`{kind}` is no encoder known here; bert, roberta, xlm-roberta and distilbert are");
            return Err(ModelError::key(&file, "model_type", message));
        }
        let size = |key: &str, most: usize| {
            let value = config.get(key).and_then(Value::as_u64);
            value.map(|n| n as usize).filter(|n| (1..=most).contains(n)).ok_or_else(|| {
                ModelError::key(&file, key, format!("a whole number from 1 to {most} is expected"))
            })
        };
        let name = |plain: &'static str, of_distil: &'static str| if distil { of_distil } else { plain };
        if !matches!(config["position_embedding_type"].as_str(), None | Some("absolute")) {
            let message = "only absolute positions are known here";
            return Err(ModelError::key(&file, "position_embedding_type", message));
        }
        let (hidden, heads) = (
            size(name("hidden_size", "dim"), WIDEST)?,
            size(name("num_attention_heads", "n_heads"), WIDEST)?,
        );
        if hidden % heads != 0 {
            let message = format!("{heads} heads do not divide {hidden}");
            return Err(ModelError::key(&file, name("num_attention_heads", "n_heads"), message));
        }
        let activation = match config[name("hidden_act", "activation")].as_str().unwrap_or("gelu") {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => {
                let message = format!("`{other}` is no activation known here");
                return Err(ModelError::key(&file, name("hidden_act", "activation"), message));
            }
        };
        // RoBERTa's positions begin behind that of the padding.
        let first_position = match kind.as_str() {
            "roberta" | "xlm-roberta" => 1 + config["pad_token_id"].as_u64().unwrap_or(1) as usize,
            _ => 0,
        };
        let positions = size("max_position_embeddings", 1 << 20)?;
        if first_position >= positions {
            return Err(ModelError::key(&file, "pad_token_id", "leaves no position"));
        }
        Ok(Self {
            hidden,
            layers: size(name("num_hidden_layers", "n_layers"), LAYERS)?,
            heads,
            inner: size(name("intermediate_size", "hidden_dim"), WIDEST << 2)?,
            vocab: size("vocab_size", 1 << 24)?,
            positions,
            first_position,
            types: if distil { 0 } else { config["type_vocab_size"].as_u64().unwrap_or(2) as usize },
            eps: config["layer_norm_eps"].as_f64().unwrap_or(1e-12) as f32,
            activation,
            distil,
        })
    }
}

/// What stands before the names where a head was saved with the encoder.
fn prefix(weights: &Weights) -> String {
    let word = "embeddings.word_embeddings.weight";
    let found = weights.names().find(|name| name.ends_with(word)).unwrap_or(word);
    found.strip_suffix(word).unwrap_or_default().to_owned()
}

struct Source<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl Source<'_> {
    fn vec(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.weights.read_vec(&format!("{}{name}", self.prefix), shape)
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, ModelError> {
        let weight = self.vec(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok(Linear { weight, bias: self.vec(&format!("{name}.bias"), &[outputs])? })
    }

    /// Old files call gain and bias gamma and beta.
    fn norm(&self, name: &str, width: usize) -> Result<Norm, ModelError> {
        let old = self.weights.shape(&format!("{}{name}.gamma", self.prefix)).is_some();
        let (gain, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let gain = self.vec(&format!("{name}.{gain}"), &[width])?;
        Ok(Norm { gain, bias: self.vec(&format!("{name}.{bias}"), &[width])? })
    }

    fn block(&self, config: &Config, at: usize) -> Result<Block, ModelError> {
        let (hidden, inner) = (config.hidden, config.inner);
        let base =
            if config.distil { format!("transformer.layer.{at}") } else { format!("encoder.layer.{at}") };
        let name = |plain: &str, of_distil: &str| {
            format!("{base}.{}", if config.distil { of_distil } else { plain })
        };
        let square = |plain: &str, of_distil: &str| self.linear(&name(plain, of_distil), hidden, hidden);
        Ok(Block {
            query: square("attention.self.query", "attention.q_lin")?,
            key: square("attention.self.key", "attention.k_lin")?,
            value: square("attention.self.value", "attention.v_lin")?,
            out: square("attention.output.dense", "attention.out_lin")?,
            after_attention: self.norm(&name("attention.output.LayerNorm", "sa_layer_norm"), hidden)?,
            up: self.linear(&name("intermediate.dense", "ffn.lin1"), inner, hidden)?,
            down: self.linear(&name("output.dense", "ffn.lin2"), hidden, inner)?,
            after_feed: self.norm(&name("output.LayerNorm", "output_layer_norm"), hidden)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        texts: Vec<String>,
        /// transformers' vectors, pooled as the folder says.
        vectors: Vec<Vec<f32>>,
    }

    fn folder(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/encoders").join(name)
    }

    fn reference(name: &str) -> Reference {
        serde_json::from_slice(&std::fs::read(folder(name).join("reference.json")).unwrap()).unwrap()
    }

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn vectors_are_those_of_transformers() {
        for (name, pooling) in [
            ("bert", Pooling::Mean),
            ("bert-cls", Pooling::Cls),
            ("roberta", Pooling::Mean),
            ("distilbert", Pooling::Mean),
        ] {
            let encoder = Encoder::load(&folder(name)).unwrap();
            assert_eq!(encoder.sentence().pooling, pooling);
            let want = reference(name);
            let texts: Vec<&str> = want.texts.iter().map(String::as_str).collect();
            let got = encoder.embed(&texts, Par::threads(1)).unwrap();
            for ((text, got), want) in texts.iter().zip(got.chunks(encoder.dimensions())).zip(&want.vectors) {
                let cosine = cosine(got, want);
                assert!(cosine >= 0.999_99, "{name}: {cosine} of {text:?}");
                assert!((got.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
            }
            // Two texts are told apart: a vector that is always the same would pass the above for one of them.
            assert!(cosine(&want.vectors[0], &want.vectors[1]) < 0.99, "{name}");
        }
    }

    #[test]
    fn neither_neighbours_nor_threads_change_a_vector() {
        let encoder = Encoder::load(&folder("bert")).unwrap();
        let texts = reference("bert").texts;
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let whole = encoder.embed(&texts, Par::threads(2)).unwrap();
        for (text, want) in texts.iter().zip(whole.chunks(encoder.dimensions())) {
            let alone = encoder.embed(&[text], Par::threads(1)).unwrap();
            assert!(cosine(&alone, want) > 0.999_999);
        }
        assert!(encoder.embed(&[], Par::threads(1)).unwrap().is_empty());
    }

    #[test]
    fn a_long_text_is_cut_and_keeps_what_stands_around_it() {
        let encoder = Encoder::load(&folder("bert")).unwrap();
        let long = "card ".repeat(500);
        let (ids, short) = (encoder.tokens(&long).unwrap(), encoder.tokens("card").unwrap());
        assert_eq!(
            (ids.len(), ids.first(), ids.last()),
            (encoder.sentence().longest, short.first(), short.last())
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_file() {
        let temp = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(folder("bert")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), temp.path().join(entry.file_name())).unwrap();
            }
        }
        let refused = |name: &str, text: &str| {
            let path = temp.path().join(name);
            let before = std::fs::read(&path).ok();
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            let why = Encoder::load(temp.path()).unwrap_err().to_string();
            match before {
                Some(before) => std::fs::write(&path, before).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            why
        };
        let modules = r#"[{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]"#;
        std::fs::write(temp.path().join("modules.json"), modules).unwrap();
        let why = refused("1_Pooling/config.json", r#"{"pooling_mode_max_tokens": true}"#);
        assert!(why.contains("1_Pooling") && why.contains("pooling_mode_max_tokens"), "{why}");
        std::fs::write(temp.path().join("1_Pooling/config.json"), r#"{"pooling_mode_cls_token": true}"#)
            .unwrap();
        assert_eq!(Encoder::load(temp.path()).unwrap().sentence().pooling, Pooling::Cls);
        let why = refused("modules.json", &modules.replace("models.Pooling", "models.Dense"));
        assert!(why.contains("Dense"), "{why}");
        let config = std::fs::read_to_string(temp.path().join("config.json")).unwrap();
        assert!(refused("config.json", &config.replace("\"bert\"", "\"t5\"")).contains("`t5` is no encoder"));
        assert!(
            refused("config.json", &config.replace("\"hidden_size\": 32", "\"hidden_size\": 48"))
                .contains("has shape")
        );
    }
}
