//! Values of scipy and statsmodels (`tests/reference/comparison.py`), within 1e-9.

use super::super::super::bootstrap;
use super::super::super::stats;
use super::*;

#[derive(serde::Deserialize)]
struct Reference {
    clusters: Vec<Clustered>,
    strata: Vec<Strata>,
    holm: Vec<(Vec<f64>, Vec<f64>)>,
    four_models: FourModels,
}

#[derive(serde::Deserialize)]
struct Clustered {
    differences: Vec<f64>,
    groups: Vec<usize>,
    se: f64,
    ci95: [f64; 2],
    /// Clusters whose sum is not 0.
    changed: usize,
    /// By convolution over all sign patterns, and for few by counting them.
    exact: f64,
    chi2_p: f64,
}

#[derive(serde::Deserialize)]
struct Strata {
    differences: Vec<f64>,
    strata: Vec<String>,
    part: BTreeMap<String, usize>,
    delta: f64,
    se: f64,
    ci95: [f64; 2],
    p: f64,
}

#[derive(serde::Deserialize)]
struct FourModels {
    pairs: Vec<PairOfModels>,
    wilson: BTreeMap<String, [f64; 2]>,
    bootstrap: [f64; 2],
    clustered: Fifths,
}

#[derive(serde::Deserialize)]
struct PairOfModels {
    a: String,
    b: String,
    fixed: usize,
    regressed: usize,
    delta: f64,
    se: f64,
    p: f64,
    ci95: [f64; 2],
    holm: f64,
}

#[derive(serde::Deserialize)]
struct Fifths {
    se: f64,
    ci95: [f64; 2],
    changed: usize,
    exact: f64,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../../../tests/fixtures/score/comparison.json")).unwrap()
}

/// Who was right on each of 1,319 questions (openai/grade-school-math, MIT).
fn four_models() -> BTreeMap<String, Vec<bool>> {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/fixtures/score/gsm8k_four_models.json"))
            .unwrap();
    let flags = |text: &str| text.chars().map(|c| c == '1').collect();
    let models = all["correct"].as_object().unwrap();
    models.iter().map(|(name, text)| (name.clone(), flags(text.as_str().unwrap()))).collect()
}

fn outcomes(right: &[bool]) -> Vec<Outcome> {
    let outcome = |(i, right): (usize, &bool)| Outcome {
        row: format!("q{i}"),
        row_hash: i.to_string(),
        correct: Some(*right),
        ..Outcome::default()
    };
    right.iter().enumerate().map(outcome).collect()
}

fn close(got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-9 * want.abs().clamp(1e-30, 1.0), "{got} wanted {want}");
}

fn close2(got: [f64; 2], want: [f64; 2]) {
    close(got[0], want[0]);
    close(got[1], want[1]);
}

/// Groups numbered without gaps.
fn numbered(groups: &[usize]) -> (Vec<usize>, usize) {
    let mut known = groups.to_vec();
    known.dedup();
    (groups.iter().map(|g| known.binary_search(g).unwrap()).collect(), known.len())
}

#[test]
fn four_models_on_1319_questions_are_compared_as_statsmodels_does() {
    let (models, want) = (four_models(), reference().four_models);
    let mut all: Vec<Comparison> = want
        .pairs
        .iter()
        .map(|pair| run(&outcomes(&models[&pair.a]), &outcomes(&models[&pair.b]), "accuracy"))
        .collect();
    adjust(&mut all);
    for (got, want) in all.iter().zip(&want.pairs) {
        assert_eq!(
            (got.n, got.fixed, got.regressed, got.test.as_str()),
            (1319, want.fixed, want.regressed, MCNEMAR)
        );
        close(got.delta, want.delta);
        close(got.se, want.se);
        close(got.p_value, want.p);
        close(got.deciding_p(), want.holm);
        // The reference's interval comes from a numerical maximum of the likelihood.
        assert!((got.ci95[0] - want.ci95[0]).abs() < 1e-6 && (got.ci95[1] - want.ci95[1]).abs() < 1e-6);
    }
    for (name, [low, high]) in want.wilson {
        let right = models[&name].iter().filter(|r| **r).count();
        close2(stats::wilson(right, 1319), [low, high]);
    }
}

#[test]
fn graded_scores_of_the_four_models_have_scipys_interval() {
    let models = four_models();
    let score = |name: &str, i: usize| f64::from(u8::from(models[name][i]));
    let differences: Vec<f64> = (0..1319)
        .map(|i| {
            (score("175b_verification", i) - score("175b_finetuning", i)) / 2.0
                + (score("6b_verification", i) - score("6b_finetuning", i)) / 2.0
        })
        .collect();
    let (got, want) =
        (bootstrap::mean(&differences, bootstrap::ROUNDS, 7), reference().four_models.bootstrap);
    let width = want[1] - want[0];
    for (got, want) in got.ci95.iter().zip(want) {
        assert!((got - want).abs() < 0.04 * width, "{got} {want}");
    }
}

#[test]
fn questions_in_groups_of_five_have_the_clustered_error_of_statsmodels() {
    let (models, want) = (four_models(), reference().four_models.clustered);
    let (a, b) = (outcomes(&models["175b_finetuning"]), outcomes(&models["175b_verification"]));
    let group = |row: &str| row[1..].parse::<usize>().ok().map(|i| (i / 5).to_string());
    let input = |_: &str| String::new();
    let about =
        About { input: &input, group: Some(("five", &group)), part: &BTreeMap::new(), seed: 7, whole: true };
    let metric = Metric::comparable("accuracy").unwrap();
    let got = compare(Side { name: "a", outcomes: &a }, Side { name: "b", outcomes: &b }, &metric, &about);
    close(got.se, want.se);
    close2(got.ci95, want.ci95);
    assert!(want.changed <= 200);
    close(got.p_value, want.exact);
    assert_eq!(got.clusters.unwrap().clusters, 264);
}

#[test]
fn clustered_errors_and_tests_are_the_references() {
    for case in reference().clusters {
        let (cluster, clusters) = numbered(&case.groups);
        let count = |value: f64| case.differences.iter().filter(|d| **d == value).count();
        let rows = Rows {
            differences: &case.differences,
            cluster: &cluster,
            clusters,
            flips: Some((count(1.0), count(-1.0))),
            binary: Some(1.0),
        };
        let got = rows.test(1);
        close(got.se, case.se);
        if clusters == case.differences.len() {
            assert_eq!(got.test, MCNEMAR);
        } else {
            close2(got.ci95, case.ci95);
        }
        close(got.p_value, if case.changed <= 200 { case.exact } else { case.chi2_p });
    }
}

#[test]
fn stratified_differences_are_the_references() {
    for case in reference().strata {
        let strata: Vec<&str> = case.strata.iter().map(String::as_str).collect();
        let (names, of) = coded(&strata);
        let by = crate::score::compare::Strata { names: &names, of: &of };
        let got = stratified(&case.differences, by, &case.part, None).unwrap();
        close(got.delta, case.delta);
        close(got.se, case.se);
        close2(got.ci95, case.ci95);
        close(got.p_value, case.p);
        // Every row its own cluster: the same but for n_h - 1 against G - 1.
        let alone: Vec<usize> = (0..strata.len()).collect();
        let clustered = stratified(&case.differences, by, &case.part, Some((&alone, strata.len()))).unwrap();
        close(clustered.delta, case.delta);
        assert!((clustered.se / case.se - 1.0).abs() < 0.25, "{} {}", clustered.se, case.se);
    }
}

#[test]
fn holm_is_statsmodels() {
    for (raw, want) in reference().holm {
        for (got, want) in holm(&raw).into_iter().zip(want) {
            close(got, want);
        }
    }
}
