//! The table of metrics.

use super::{Argument, Base, Direction, Entry, Unit};

const fn share(name: &'static str, base: Base, about: &'static str) -> Entry {
    Entry {
        name,
        base,
        unit: Unit::Share,
        direction: Direction::Higher,
        per_row: false,
        threshold: None,
        argument: Argument::None,
        of_stage: false,
        about,
        source: "",
    }
}

const fn per_row(name: &'static str, base: Base, threshold: f64, about: &'static str) -> Entry {
    Entry { per_row: true, threshold: Some(threshold), of_stage: true, ..share(name, base, about) }
}

/// Share of rows with something that should not be.
const fn flaw(name: &'static str, base: Base, about: &'static str) -> Entry {
    Entry { direction: Direction::Lower, ..per_row(name, base, 0.5, about) }
}

const fn latency(name: &'static str, percent: u8) -> Entry {
    Entry {
        unit: Unit::Milliseconds,
        direction: Direction::Lower,
        of_stage: true,
        source: "Hyndman and Fan 1996, type 7 (NumPy's)",
        ..share(name, Base::Latency(percent), "what a user would wait: one row at a time, warmed, no cache")
    }
}

/// So much of something on each row; less is better.
const fn amount(name: &'static str, base: Base, unit: Unit, about: &'static str) -> Entry {
    Entry { unit, direction: Direction::Lower, per_row: true, of_stage: true, ..share(name, base, about) }
}

const fn of_label(name: &'static str, base: Base, about: &'static str) -> Entry {
    Entry { argument: Argument::Required("LABEL"), source: SKLEARN, ..share(name, base, about) }
}

const SKLEARN: &str = "scikit-learn, zero_division=0";

/// Every metric there is, but for those of a workspace.
pub static REGISTRY: &[Entry] = &[
    per_row(
        "accuracy",
        Base::Accuracy,
        0.5,
        "share of rows whose answer is the golden one (JSON: the same value)",
    ),
    Entry { source: SKLEARN, ..share("macro_f1", Base::MacroF1, "mean of the classes' F1") },
    Entry {
        source: SKLEARN,
        ..share(
            "weighted_f1",
            Base::WeightedF1,
            "mean of the classes' F1, weighted by how often a class is golden",
        )
    },
    of_label("precision", Base::Precision, "of the rows answered with LABEL, the share that are"),
    of_label("recall", Base::Recall, "of the rows that are LABEL, the share answered with it"),
    of_label("f1", Base::F1, "harmonic mean of precision and recall of LABEL"),
    Entry {
        unit: Unit::Score,
        direction: Direction::Lower,
        of_stage: true,
        source: "Guo et al. 2017, section 2",
        ..share(
            "ece",
            Base::Ece,
            "expected calibration error: how far the likeliest label's probability is from the share that is right, over 15 bins",
        )
    },
    Entry {
        unit: Unit::Score,
        direction: Direction::Lower,
        per_row: true,
        of_stage: true,
        source: "Brier 1950, of the likeliest label; scikit-learn's brier_score_loss of right or wrong",
        ..share(
            "brier",
            Base::Brier,
            "mean squared distance of the likeliest label's probability from 1 (right) or 0 (wrong)",
        )
    },
    per_row(
        "exact",
        Base::Exact,
        0.5,
        "the answer is the gold, letter for letter, but for surrounding space",
    ),
    Entry {
        source: "Rajpurkar et al. 2016, normalize_answer",
        ..per_row(
            "normalized",
            Base::Normalized,
            0.5,
            "the answer is the gold without regard to case, punctuation, articles and spacing",
        )
    },
    Entry {
        argument: Argument::Optional("TEXT"),
        ..per_row(
            "contains",
            Base::Contains,
            0.5,
            "the gold (or TEXT) stands in the answer, letter for letter",
        )
    },
    Entry {
        argument: Argument::Required("PATTERN"),
        ..per_row("regex", Base::Regex, 0.5, "the regular expression PATTERN matches somewhere in the answer")
    },
    Entry {
        argument: Argument::Optional("TOLERANCE"),
        ..per_row(
            "numeric",
            Base::Numeric,
            0.5,
            "the last number of the answer is the last one of the gold, within TOLERANCE (0.01; 1% of the gold)",
        )
    },
    Entry {
        unit: Unit::Score,
        threshold: None,
        source: "Lin 2004, ROUGE-L with beta 1; tokens as the rouge-score package, no stemming",
        ..per_row(
            "rouge_l",
            Base::RougeL,
            0.5,
            "F-measure of the longest common subsequence of words with the gold",
        )
    },
    Entry {
        unit: Unit::Score,
        ..per_row(
            "intent",
            Base::Intent,
            0.8,
            "embedding similarity of the answer to the gold; right from [eval] intent's threshold on",
        )
    },
    per_row("json_valid", Base::JsonValid, 0.5, "the answer is JSON"),
    Entry {
        argument: Argument::Optional("FILE"),
        source: "JSON Schema, as its $schema says, else 2020-12",
        ..per_row(
            "json_schema",
            Base::JsonSchema,
            0.5,
            "the answer is JSON of the schema in FILE, or of the stage's own",
        )
    },
    Entry {
        unit: Unit::Score,
        argument: Argument::Optional("FIELD"),
        ..per_row(
            "json_fields",
            Base::JsonFields,
            1.0,
            "share of the gold's fields that the answer has with the same value",
        )
    },
    per_row("right_tool", Base::RightTool, 0.5, "share of calls that call the golden call's tool"),
    per_row(
        "right_arguments",
        Base::RightArguments,
        0.5,
        "of the calls of the golden tool, the share with the golden arguments",
    ),
    Entry {
        unit: Unit::Score,
        ..per_row(
            "tool_precision",
            Base::ToolPrecision,
            1.0,
            "of the calls made, the share that the gold has: same tool, same arguments",
        )
    },
    Entry {
        unit: Unit::Score,
        ..per_row(
            "tool_recall",
            Base::ToolRecall,
            1.0,
            "of the golden calls, the share that was made: same tool, same arguments",
        )
    },
    flaw("invalid_tool_rate", Base::InvalidTool, "share of calls of a tool that is not declared"),
    flaw(
        "invalid_parameter_rate",
        Base::InvalidParameter,
        "of the calls of declared tools, the share whose arguments do not fit the tool's parameters",
    ),
    flaw("format_error_rate", Base::FormatErrorRate, "share of rows with an answer that could not be read"),
    Entry {
        source: "patterns at the answer's start in English, German, French, Spanish, Italian, Portuguese",
        ..flaw("refusal_rate", Base::RefusalRate, "share of answers that begin as refusals do")
    },
    amount(
        "length_chars",
        Base::LengthChars,
        Unit::Characters,
        "characters of the answer (Unicode scalar values)",
    ),
    amount("length_words", Base::LengthWords, Unit::Words, "words of the answer, told apart by white space"),
    Entry {
        argument: Argument::Optional("NAME"),
        of_stage: false,
        ..per_row("judge", Base::Judge, 0.5, "share of rows that the judge NAME calls right")
    },
    Entry {
        argument: Argument::Optional("NAME"),
        of_stage: false,
        threshold: None,
        ..per_row(
            "judge_score",
            Base::JudgeScore,
            0.5,
            "mean verdict of the judge NAME, from 0 (worst) to 1 (best)",
        )
    },
    latency("latency_p50_ms", 50),
    latency("latency_p90_ms", 90),
    latency("latency_p95_ms", 95),
    latency("latency_p99_ms", 99),
    amount("tokens_in", Base::TokensIn, Unit::Tokens, "tokens read per row"),
    amount("tokens_out", Base::TokensOut, Unit::Tokens, "tokens written per row"),
    Entry {
        unit: Unit::UsDollars,
        direction: Direction::Lower,
        ..share("usd_per_1k", Base::UsdPer1k, "US dollars per 1,000 rows, by the models' prices")
    },
    Entry {
        unit: Unit::Score,
        argument: Argument::Required("K"),
        source: "Chen et al. 2021, equation 1",
        ..share(
            "pass_at",
            Base::PassAt,
            "chance that at least one of K answers to a row is right, by [eval] samples answers",
        )
    },
    Entry {
        source: "Wang et al. 2022 (self-consistency)",
        ..share(
            "majority",
            Base::Majority,
            "share of rows whose most frequent answer is right; of equally frequent ones the first",
        )
    },
    Entry {
        unit: Unit::Score,
        direction: Direction::Lower,
        ..share(
            "row_variance",
            Base::RowVariance,
            "mean over rows of the variance of right (1) and wrong (0) within the row's answers",
        )
    },
];
