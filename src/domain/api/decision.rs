//! What people decide: each a journal entry that can be undone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::example::ExampleEdit;
use crate::domain::grow::Accepted;
use crate::domain::judge::PersonVerdict;
use crate::domain::play::Feedback;
use crate::domain::review::Review;
use crate::domain::strata::Act;
use crate::domain::views::SavedView;

/// Rows that one decision is made on at most.
pub const PICKED_MAX: usize = 5_000;

/// What a person decided; each is a journal entry and can be undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Decision {
    Mark {
        row: String,
        mark: String,
        on: bool,
    },
    /// None takes a person's gold away again.
    Gold {
        row: String,
        gold: Option<String>,
    },
    Note {
        row: String,
        note: Option<String>,
    },
    /// A stratum's name by its id alone, as older versions wrote it. Asked for, it becomes a [`Self::Strata`].
    NameStratum {
        stratum: String,
        name: Option<String>,
    },
    /// Something about the strata, by its number among such decisions; none takes it back. Asked for by [`super::Request::ByHand`].
    Strata {
        number: u64,
        act: Option<Act>,
    },
    NameCandidate {
        candidate: String,
        name: String,
    },
    /// Outcomes made elsewhere stand on the board under this name; none takes them off it. `import` is the folder they are kept in.
    Outcomes {
        candidate: String,
        import: Option<String>,
    },
    /// What was said of an answer of the playground. The engine adds the gold that an edit is.
    Feedback(Feedback),
    /// Prompt files get these texts. The engine fills in what is missing.
    AdoptPrompts {
        files: Vec<PromptFile>,
    },
    /// A name for a version of prompts, by the hash of its texts; none takes it away.
    TagPrompt {
        version: String,
        tag: Option<String>,
    },
    /// How good an answer is, said without knowing whose it is. Asked for by [`super::Request::JudgeSay`].
    Verdict(PersonVerdict),
    /// What was decided about an example of a store (a run's, or an imported one's).
    Example {
        store: String,
        example: String,
        edit: ExampleEdit,
    },
    /// A query over rows under a name; none deletes it.
    View {
        name: String,
        view: Option<Box<SavedView>>,
    },
    /// What an annotator says of a row. Asked for by [`super::Request::ReviewSay`].
    Review(Review),
    /// Rows that a run made are a source of the data; none takes them out. Asked for by [`super::Request::AcceptGrown`].
    Grown {
        run: String,
        accepted: Option<Accepted>,
    },
    /// Several that are one: taken back as one.
    Together {
        decisions: Vec<Decision>,
    },
}

/// A prompt file that gets another text. Hashes are BLAKE3 of texts that are kept in `.tunebench/prompts/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptFile {
    pub stage: String,
    /// As it stands in workspace.toml.
    pub file: String,
    /// Empty: what it had before the last adoption.
    pub hash: String,
    /// What it had.
    pub before: String,
}

/// What people decided about prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptsKept {
    /// Names by hash of a version's texts.
    pub tags: BTreeMap<String, String>,
    /// The last adoption, by file.
    pub adopted: BTreeMap<String, PromptFile>,
}
