//! Filters over rows: what a row has under a key, and which rows a filter admits.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::candidates::Known;
use super::problems;
use super::rows::Loaded;
use super::standing::{self, Scored};
use super::state::{Engine, bad_input};
use super::{candidates, grow, parts};
use crate::data::{Bits, Column, Of};
use crate::domain::api::Failure;
use crate::domain::filter::{ANY, Filter, Op, Test, number};
use crate::domain::grow::SYNTHETIC;
use crate::domain::outcome::Outcome;
use crate::domain::problem::ProblemKind;
use crate::domain::row::Part;
use crate::domain::words::nearest;

/// Keys of every workspace, with what they mean. Fields of the data and names of candidates are keys as well.
pub const KEYS: [(&str, &str); 22] = [
    ("id", "the row's id"),
    ("part", "train, dev, eval, reserve"),
    ("stratum", "the stratum's name or id"),
    ("cluster", "the cluster's name or id, whatever the dimensions"),
    ("group", "the group of clusters, by name or id"),
    ("flag", "outlier, near-duplicate"),
    ("problem", "what is wrong with it: near-duplicate, conflicting-gold, wrong-gold, pii, ..."),
    ("outlier", "how unusual the row is, 0 to 1; 0.5 and above are flagged"),
    ("turns", "messages of the conversation before the golden answer"),
    ("lang", "language of the input: en, de, ...; ? where it cannot be told"),
    ("source", "the file that the row is from"),
    ("synthetic", "how a row was made: paraphrase, self-play, reverse; * any that was made"),
    ("maker", "the model that made the row"),
    ("parent", "id of a row that it was made of"),
    ("mark", "a mark that people gave"),
    ("note", "words of a note"),
    ("gold", "the golden answer"),
    ("len", "characters of the input"),
    ("base", "the baseline's outcome: right, wrong, error, unjudged, missing"),
    ("base.answer", "words of the baseline's answer"),
    ("best", "the best candidate's outcome"),
    ("best.answer", "words of the best candidate's answer"),
];

/// `field.NAME` is the data's field where a key has that name, too.
pub const FIELD: &str = "field.";
/// `row.NAME` is the key where the data has a field of that name, which `NAME` alone would mean.
pub const ROW: &str = "row.";
/// Keys that give way to a field of the data: they came later than workspaces with such fields.
pub const YIELD: [&str; 8] = ["cluster", "group", "outlier", "turns", "lang", "source", "maker", "parent"];
const ANSWER: &str = ".answer";

/// What rows have under one key, by place.
pub struct Key {
    kind: Kind,
    /// What people decided instead of what the column holds.
    decided: HashMap<usize, String>,
}

enum Kind {
    Id,
    Part,
    Stratum,
    Cluster,
    Group,
    Flag,
    Problem(Arc<problems::Found>),
    Outlier,
    Turns(Arc<Loaded>),
    Language(Arc<Loaded>),
    Source,
    Mark(HashMap<usize, BTreeSet<String>>),
    /// Only what people decided.
    Decided,
    Length(Arc<Column>),
    Text(Arc<Column>),
    /// How a row was made.
    Made(Arc<Column>),
    /// Ids, as a JSON list.
    Parents(Arc<Column>),
    /// The outcome's state, or its answer.
    Outcome(Option<Arc<Scored>>),
    Answer(Option<Arc<Scored>>),
}

/// What a key is the name of.
pub enum Found {
    /// One of [`KEYS`].
    Own,
    /// A field of the data, without `field.` before it.
    Field(String),
    /// A candidate's outcome, or its answer.
    Candidate(Known, bool),
}

/// The words for an outcome.
pub const STATES: [&str; 5] = ["right", "wrong", "error", "unjudged", "missing"];

/// Outcome of a row in one of [`STATES`].
fn state_of(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        None => "missing",
        Some(o) if o.error.is_some() => "error",
        Some(o) => match o.correct {
            Some(true) => "right",
            Some(false) => "wrong",
            None => "unjudged",
        },
    }
}

/// Reads keys, filters and counts of one state of the data.
pub struct Finder<'a> {
    engine: &'a Engine,
    loaded: &'a Arc<Loaded>,
}

impl<'a> Finder<'a> {
    pub const fn new(engine: &'a Engine, loaded: &'a Arc<Loaded>) -> Self {
        Self { engine, loaded }
    }

    fn place(&self, id: &str) -> Option<usize> {
        self.loaded.dataset.find(id)
    }

    fn column(&self, of: Of) -> Result<Arc<Column>, Failure> {
        let mut columns = self.loaded.dataset.columns(&[of]).map_err(|e| parts::data_error(&e))?;
        columns.pop().ok_or_else(|| bad_input("the data has no such column".to_owned()))
    }

    fn decided<V>(&self, of: &BTreeMap<String, V>, value: impl Fn(&V) -> String) -> HashMap<usize, String> {
        of.iter().filter_map(|(id, v)| Some((self.place(id)?, value(v)))).collect()
    }

    /// What `name` stands for.
    ///
    /// # Errors
    /// There is no such key; the nearest is named.
    pub fn key(&self, name: &str) -> Result<Key, Failure> {
        let plain = |kind| Ok(Key { kind, decided: HashMap::new() });
        let gold = || self.engine.read(|s| self.decided(&s.decisions.gold, String::clone));
        let Found::Own = self.find(name)? else { return self.named(name) };
        match name.strip_prefix(ROW).unwrap_or(name) {
            "cluster" => plain(Kind::Cluster),
            "group" => plain(Kind::Group),
            "outlier" => plain(Kind::Outlier),
            "source" => plain(Kind::Source),
            "turns" => {
                self.loaded.turns();
                plain(Kind::Turns(self.loaded.clone()))
            }
            "lang" => {
                self.loaded.languages()?;
                plain(Kind::Language(self.loaded.clone()))
            }
            "synthetic" => self.made("method", Kind::Made),
            "maker" => self.made("maker", Kind::Text),
            "parent" => self.made("parents", Kind::Parents),
            "id" => plain(Kind::Id),
            "part" => plain(Kind::Part),
            "stratum" => plain(Kind::Stratum),
            "flag" => plain(Kind::Flag),
            "problem" => plain(Kind::Problem(problems::found(self.engine, self.loaded)?)),
            "len" => plain(Kind::Length(self.column(Of::Input)?)),
            "gold" => Ok(Key { kind: Kind::Text(self.column(Of::Gold)?), decided: gold() }),
            "mark" => plain(Kind::Mark(self.engine.read(|s| {
                let marks = s.decisions.marks.iter();
                marks.filter_map(|(id, marks)| Some((self.place(id)?, marks.clone()))).collect()
            }))),
            "note" => {
                let decided = self.engine.read(|s| self.decided(&s.decisions.notes, String::clone));
                Ok(Key { kind: Kind::Decided, decided })
            }
            "base" => plain(Kind::Outcome(self.base_and_best()?.0)),
            "best" => plain(Kind::Outcome(self.base_and_best()?.1)),
            "base.answer" => plain(Kind::Answer(self.base_and_best()?.0)),
            "best.answer" => plain(Kind::Answer(self.base_and_best()?.1)),
            _ => self.named(name),
        }
    }

    /// Baseline and best; where nothing is better than the baseline, that is the best.
    fn base_and_best(&self) -> Result<(Option<Arc<Scored>>, Option<Arc<Scored>>), Failure> {
        let (base, best) = standing::base_and_best(self.engine, self.loaded)?;
        let best = best.or_else(|| base.clone());
        Ok((base, best))
    }

    /// Of rows that were made; nothing where none were.
    fn made(&self, what: &str, kind: fn(Arc<Column>) -> Kind) -> Result<Key, Failure> {
        let kind = if grow::has_made(&self.loaded.dataset) {
            kind(self.column(Of::Field(format!("{SYNTHETIC}.{what}")))?)
        } else {
            Kind::Decided
        };
        Ok(Key { kind, decided: HashMap::new() })
    }

    /// A field of the data, or a candidate.
    fn named(&self, name: &str) -> Result<Key, Failure> {
        let plain = |kind| Ok(Key { kind, decided: HashMap::new() });
        match self.find(name)? {
            Found::Own => Err(bad_input(format!("`{name}` cannot be looked up"))),
            Found::Field(field) => plain(Kind::Text(self.column(Of::Field(field))?)),
            Found::Candidate(known, answer) => {
                let scored = standing::scored(self.engine, self.loaded, &known)?;
                plain(if answer { Kind::Answer(scored) } else { Kind::Outcome(scored) })
            }
        }
    }

    /// What a key is the name of, without reading anything of it.
    ///
    /// # Errors
    /// There is no such key; the nearest is named.
    pub fn find(&self, name: &str) -> Result<Found, Failure> {
        let fields = self.loaded.dataset.fields();
        let yields = |name: &str| YIELD.contains(&name) && fields.iter().any(|f| f == name);
        let of_row = name.strip_prefix(ROW).filter(|name| YIELD.contains(name));
        if of_row.is_some() || KEYS.iter().any(|(key, _)| *key == name) && !yields(name) {
            return Ok(Found::Own);
        }
        let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let wanted = name.strip_prefix(FIELD).unwrap_or(name);
        if fields.iter().any(|f| f == wanted || wanted.contains('.') && *f == first(wanted)) {
            return Ok(Found::Field(wanted.to_owned()));
        }
        let known = candidates::known(self.engine);
        for (wanted, answer) in [(Some(name), false), (name.strip_suffix(ANSWER), true)] {
            let named = wanted.and_then(|wanted| known.iter().find(|k| k.candidate.name == wanted));
            if let Some(known) = named {
                return Ok(Found::Candidate(known.clone(), answer));
            }
        }
        let keys = KEYS.iter().map(|(key, _)| *key).chain(fields.iter().map(String::as_str));
        let near = nearest(name, keys.chain(known.iter().map(|k| k.candidate.name.as_str())));
        let near = near.map(|near| format!(", the nearest is `{near}`")).unwrap_or_default();
        Err(bad_input(format!(
            "no row has `{name}`{near}; to look for it in the text, put the whole term, colon and all, in double quotes"
        )))
    }

    /// The words that can stand under a key which has few, where the key is such a one.
    pub fn words(&self, name: &str) -> Option<Vec<&'static str>> {
        match self.find(name) {
            Ok(Found::Candidate(_, false)) => Some(STATES.to_vec()),
            Ok(Found::Own) => match name {
                "part" => Some(Part::ALL.iter().map(|part| part.name()).chain(["none"]).collect()),
                "flag" => Some(vec!["outlier", "near-duplicate"]),
                "problem" => Some(ProblemKind::ALL.iter().map(|kind| kind.name()).collect()),
                "base" | "best" => Some(STATES.to_vec()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a value can stand under a key, without reading anything of it.
    ///
    /// # Errors
    /// There is no such key, the value is no number where the key holds numbers, or the key has few words and this is none of them.
    pub fn check(&self, name: &str, op: Op, value: &str) -> Result<(), Failure> {
        let found = self.find(name)?;
        if value == ANY {
            return Ok(());
        }
        let own = name.strip_prefix(ROW).unwrap_or(name);
        if matches!(found, Found::Own)
            && matches!(own, "len" | "turns" | "outlier")
            && number(value).is_none()
        {
            let what = if own == "len" { "a number of characters" } else { "a number" };
            return Err(bad_input(format!("`{name}` is {what}, and `{value}` is none")));
        }
        let lower = value.to_lowercase();
        let fits = |word: &str| if op == Op::Is { *word == *lower } else { word.starts_with(&lower) };
        match self.words(name) {
            Some(words) if !op.orders() && !words.iter().any(|word| fits(word)) => {
                let near = nearest(&lower, words.iter().copied());
                let near = near.map(|near| format!(", the nearest is `{near}`")).unwrap_or_default();
                Err(bad_input(format!("`{name}` is never `{value}`{near}; it is {}", words.join(", "))))
            }
            _ => Ok(()),
        }
    }

    /// The rows that a filter admits.
    ///
    /// # Errors
    /// A key that no row has, or a value that is no number where one is needed.
    pub fn admitted(&self, filter: &Filter) -> Result<Bits, Failure> {
        let len = self.loaded.dataset.len();
        let mut admitted = Bits::of(len, |_| true);
        for term in &filter.terms {
            let mut bits = match &term.test {
                Test::Word(word) => {
                    // What has to be made is made in one pass.
                    let both = self.loaded.dataset.columns(&[Of::Input, Of::Gold]);
                    both.map_err(|e| parts::data_error(&e))?;
                    let mut bits = self.key("id")?.fits(self.loaded, Op::Fits, word)?;
                    bits.join(&self.column(Of::Input)?.containing(word));
                    bits.join(&self.key("gold")?.fits(self.loaded, Op::Fits, word)?);
                    bits
                }
                Test::Key { key, op, values } => {
                    values.iter().try_for_each(|value| self.check(key, *op, value))?;
                    let key = self.key(key)?;
                    let mut bits = Bits::of(len, |_| false);
                    // While one types there is no value yet.
                    if values.is_empty() {
                        bits.invert();
                    }
                    for value in values {
                        bits.join(&key.fits(self.loaded, *op, value)?);
                    }
                    bits
                }
            };
            if term.negated {
                bits.invert();
            }
            admitted.intersect(&bits);
        }
        Ok(admitted)
    }
}

impl Key {
    /// The rows where one of the values fits.
    fn fits(&self, loaded: &Loaded, op: Op, wanted: &str) -> Result<Bits, Failure> {
        let len = loaded.dataset.len();
        if op == Op::Is && wanted.is_empty() {
            let mut bits = self.fits(loaded, Op::Fits, ANY)?;
            bits.invert();
            return Ok(bits);
        }
        // Numbers by size; anything else, such as dates, by its characters.
        let limit = number(wanted);
        let lower = wanted.to_lowercase();
        let by_size = |value: &str| match limit {
            Some(limit) => number(value).is_some_and(|got| op.holds(got, limit)),
            None => match value.to_lowercase().as_str().cmp(lower.as_str()) {
                std::cmp::Ordering::Less => matches!(op, Op::Less | Op::LessEqual),
                std::cmp::Ordering::Equal => matches!(op, Op::LessEqual | Op::GreaterEqual),
                std::cmp::Ordering::Greater => matches!(op, Op::Greater | Op::GreaterEqual),
            },
        };
        let is = |value: &str| value.eq_ignore_ascii_case(wanted) || value.to_lowercase() == lower;
        let contains = |value: &str| value.to_lowercase().contains(&lower);
        // A number is asked for as such: `turns:1` is not 10.
        let in_field = |value: &str| match limit.and(number(value)) {
            Some(got) if matches!(self.kind, Kind::Text(_)) => Some(got) == limit,
            _ => contains(value),
        };
        // What has few values is named by their beginning, so that `part:ev` is found while one types; texts contain.
        let names = matches!(
            self.kind,
            Kind::Part
                | Kind::Flag
                | Kind::Made(_)
                | Kind::Problem(_)
                | Kind::Mark(_)
                | Kind::Outcome(_)
                | Kind::Language(_)
        );
        let numeric = matches!(self.kind, Kind::Length(_) | Kind::Turns(_) | Kind::Outlier);
        let fits = |value: &str| match op {
            _ if wanted == ANY => !(value.is_empty() || names && value == "missing"),
            Op::Fits if names => value.to_lowercase().starts_with(&lower),
            Op::Fits if matches!(self.kind, Kind::Parents(_)) => is(value),
            Op::Fits if numeric => limit.is_some() && number(value) == limit,
            Op::Fits => in_field(value),
            Op::Is => is(value) || limit.is_some() && number(value) == limit,
            _ => by_size(value),
        };
        if let (Kind::Cluster | Kind::Group, Some(strata)) = (&self.kind, &loaded.strata) {
            let group = matches!(self.kind, Kind::Group);
            let wanted = strata.above_that(group, |id, name| fits(name) || is(id));
            return Ok(Bits::of(len, |at| loaded.stratum(at).is_some_and(|s| wanted.contains(&s))));
        }
        if let (Kind::Stratum, Some(strata)) = (&self.kind, &loaded.strata) {
            let wanted = strata.places(|id, name| fits(name) || is(id));
            loaded.strata_of_rows();
            return Ok(Bits::of(len, |at| loaded.stratum(at).is_some_and(|s| wanted.contains(&s))));
        }
        if let (Kind::Text(column), Op::Fits, false) = (&self.kind, op, wanted == ANY) {
            let mut bits = column.containing(wanted);
            if limit.is_some() {
                let found = bits;
                bits = Bits::of(len, |at| match column.get(at).and_then(number) {
                    Some(got) => Some(got) == limit,
                    None => found.has(at),
                });
            }
            for (&at, value) in &self.decided {
                bits.set(at, in_field(value));
            }
            return Ok(bits);
        }
        Ok(Bits::of(len, |at| {
            let mut any = false;
            self.each(loaded, at, &mut |value| any |= fits(value));
            any
        }))
    }

    /// Calls `with` for every value that a row has.
    pub fn each(&self, loaded: &Loaded, at: usize, with: &mut dyn FnMut(&str)) {
        if let Some(decided) = self.decided.get(&at) {
            return with(decided);
        }
        let id = || loaded.dataset.id(at);
        match &self.kind {
            Kind::Id => with(id()),
            Kind::Part => with(loaded.parts.get(at).copied().flatten().map_or("none", |p| p.name())),
            Kind::Stratum => {
                if let (Some(strata), Some(stratum)) = (&loaded.strata, loaded.stratum(at)) {
                    with(&strata.name(stratum).unwrap_or_default());
                }
            }
            Kind::Cluster | Kind::Group => {
                let group = matches!(self.kind, Kind::Group);
                let of = loaded.strata.as_ref().zip(loaded.stratum(at));
                if let Some((_, name)) = of.and_then(|(strata, at)| strata.above(at, group)) {
                    with(name);
                }
            }
            Kind::Outlier => {
                if let Some(score) = loaded.strata.as_ref().and_then(|s| s.outlier(id())) {
                    with(&format!("{score:.3}"));
                }
            }
            Kind::Turns(of) => with(&of.turns().get(at).copied().unwrap_or_default().to_string()),
            Kind::Language(of) => {
                if let Some(language) = of.languages().ok().and_then(|l| l.get(at)) {
                    with(language);
                }
            }
            Kind::Source => with(loaded.dataset.source(at)),
            Kind::Made(column) => column.get(at).into_iter().for_each(with),
            Kind::Parents(column) => {
                let ids = column.get(at).and_then(|ids| serde_json::from_str::<Vec<String>>(ids).ok());
                ids.unwrap_or_default().iter().for_each(|id| with(id));
            }
            Kind::Flag => {
                let Some(strata) = &loaded.strata else { return };
                if strata.table.is_outlier(id()) {
                    with("outlier");
                }
                if strata.table.is_near_duplicate(id()) {
                    with("near-duplicate");
                }
            }
            Kind::Problem(found) => {
                let mine = ProblemKind::ALL.into_iter().filter(|kind| found.has(loaded, at, *kind));
                mine.for_each(|kind| with(kind.name()));
            }
            Kind::Mark(marks) => marks.get(&at).into_iter().flatten().for_each(|mark| with(mark)),
            Kind::Decided => {}
            Kind::Length(column) => {
                let length = column.get(at).map_or(0, |text| text.chars().count());
                with(&length.to_string());
            }
            Kind::Text(column) => column.get(at).into_iter().for_each(with),
            Kind::Outcome(scored) => with(state_of(scored.as_ref().and_then(|s| s.outcome(id())))),
            Kind::Answer(scored) => {
                let answer = scored.as_ref().and_then(|s| s.outcome(id())).filter(|o| o.error.is_none());
                answer.map(|o| Cow::from(&o.output)).iter().for_each(|a| with(a));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::domain::api::{Request, Response, RowQuery};
    use crate::engine::requests;

    /// Ids of the rows that fit, or why the filter is refused.
    fn ask(engine: &Arc<Engine>, filter: &str) -> Result<Vec<String>, String> {
        let query = RowQuery { text: filter.into(), count: 100, ..RowQuery::default() };
        match requests::answer(engine, &Arc::default(), Request::Rows { query }) {
            Response::Rows { page } => Ok(page.rows.into_iter().map(|row| row.id).collect()),
            Response::Error { error } => Err(error.message),
            other => panic!("{other:?}"),
        }
    }

    fn desk() -> (tempfile::TempDir, Arc<Engine>) {
        let dir = crate::workspace::tests::sample();
        let row = |id: &str, size: &str| {
            format!("{{\"id\":\"{id}\",\"message\":\"m\",\"team\":\"t\",\"size\":{size}}}\n")
        };
        let rows = [row("a", "1"), row("b", "10"), row("c", "\"1 of 10\""), row("d", "\"1.0\"")].concat();
        fs::write(dir.path().join("data/tickets.jsonl"), rows).unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join(".tunebench")).unwrap();
        let engine = Engine::open(&root, "unused".into()).unwrap();
        (dir, engine)
    }

    #[test]
    fn a_number_under_a_field_is_that_number_and_words_are_contained() {
        let (_dir, engine) = desk();
        assert_eq!(ask(&engine, "size:1").unwrap(), ["a", "c", "d"]);
        assert_eq!(ask(&engine, "size:10").unwrap(), ["b", "c"]);
        assert_eq!(ask(&engine, "-size:1").unwrap(), ["b"]);
        assert_eq!(ask(&engine, "size:of").unwrap(), ["c"]);
        assert_eq!(ask(&engine, "size:*").unwrap(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn empty_quotes_find_what_is_empty_and_other_languages_are_refused() {
        let (dir, engine) = desk();
        let rows = "{\"id\":\"a\",\"message\":\"m\",\"team\":\"t\",\"size\":1}\n{\"id\":\"b\",\"message\":\"m\",\"team\":\"\"}\n";
        fs::write(dir.path().join("data/tickets.jsonl"), rows).unwrap();
        assert_eq!(ask(&engine, "gold=\"\"").unwrap(), ["b"]);
        assert_eq!(ask(&engine, "-gold=\"\"").unwrap(), ["a"]);
        assert_eq!(ask(&engine, "size=\"\"").unwrap(), ["b"]);
        let why = ask(&engine, "gold:t or gold:u").unwrap_err();
        assert!(why.contains("column 8: `or` is read as a word"), "{why}");
        assert_eq!(ask(&engine, "m \"or\" gold:t").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_value_that_a_key_never_has_is_refused_with_the_nearest() {
        let (_dir, engine) = desk();
        for (filter, why) in [
            (
                "base:rigth",
                "`base` is never `rigth`, the nearest is `right`; it is right, wrong, error, unjudged, missing",
            ),
            ("-part:foo", "`part` is never `foo`"),
            ("flag:outlir", "the nearest is `outlier`"),
            ("problem:pi,pix", "`problem` is never `pix`"),
            ("len:abc", "`len` is a number of characters, and `abc` is none"),
            ("outlier>x", "`outlier` is a number, and `x` is none"),
            ("row.turns=x", "`row.turns` is a number, and `x` is none"),
        ] {
            let got = ask(&engine, filter).unwrap_err();
            assert!(got.contains(why), "{filter}: {got}");
        }
        // The beginning of a word is enough while one types.
        assert_eq!(ask(&engine, "base:mis").unwrap().len(), 4);
        assert!(ask(&engine, "base=mis").is_err());
        assert_eq!(ask(&engine, "part:*").unwrap().len(), 4);
    }
}
