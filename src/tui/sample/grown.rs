//! What a run made of train rows: many texts, some of which are taken in already.

use crate::domain::grow::{Accepted, Check, Grown, GrownAsk, GrownPage, Made, Parent, Tally};

/// Texts of the run.
pub const TEXTS: usize = 1200;

const FATES: [(Option<Check>, &str); 8] = [
    (None, ""),
    (Some(Check::Disputed), "answered `lost_card`, gold is `card_arrival`"),
    (None, ""),
    (Some(Check::Duplicate), "nearly (0.83) the same text as row 00118"),
    (None, ""),
    (Some(Check::Leak), "the same text as row 00040 of the eval part"),
    (None, ""),
    (Some(Check::Text), "cut off at 512 tokens"),
];

const TEXTS_OF: [&str; 4] = [
    "Any idea when the new card gets here?",
    "My card is gone",
    "I ordered a card two weeks ago, has it been posted?",
    "Where is my card, I ordered it last week",
];

fn made(at: usize) -> Made {
    let (fell, why) = FATES[at % FATES.len()];
    let has_row = fell.is_none_or(Check::may_be_overruled);
    let text = match at / 4 {
        0 => TEXTS_OF[at % 4].to_owned(),
        n => format!("{} ({n})", TEXTS_OF[at % 4]),
    };
    Made {
        at,
        accepted: at < 16 && fell.is_none(),
        one: Grown {
            id: if has_row { format!("grown-{at:04}") } else { String::new() },
            parents: vec![format!("{:05}", 12 + at % 90)],
            stratum: Some("card arrival".into()),
            gold: Some("card_arrival".into()),
            text,
            answer: has_row.then(|| if fell.is_some() { "lost_card" } else { "card_arrival" }.into()),
            likeness: (fell.is_none()).then_some(0.78),
            nearest: has_row.then_some(0.61),
            fell,
            why: why.into(),
            ..Grown::default()
        },
    }
}

pub fn grown(ask: &GrownAsk) -> GrownPage {
    let fits = |made: &Made| {
        let fell = made.one.fell;
        ask.filter.split_whitespace().all(|word| match word {
            "kept" => fell.is_none(),
            "refused" => fell.is_some(),
            "accepted" => made.accepted,
            "-accepted" => !made.accepted,
            word => fell.is_some_and(|check| check.name() == word) || made.one.text.contains(word),
        })
    };
    let mut counts = Tally::default();
    (0..TEXTS).for_each(|at| counts.add(made(at).one.fell));
    let fitting: Vec<Made> = (0..TEXTS).map(made).filter(fits).collect();
    let open = fitting.iter().filter(|m| m.one.fell.is_none() && !m.accepted).count();
    let total = fitting.len();
    let (rows, parents) = match ask.at {
        Some(at) => {
            let input = "I ordered my new card a week ago and it still has not come".to_owned();
            let id = format!("{:05}", 12 + at % 90);
            (vec![made(at)], vec![Parent { id, input, gold: Some("card_arrival".into()) }])
        }
        None => (fitting.into_iter().skip(ask.offset).take(ask.count.min(200)).collect(), Vec::new()),
    };
    GrownPage {
        run: ask.run.clone(),
        maker: "critic".into(),
        checker: "train-1".into(),
        counts,
        accepted: Some(Accepted { hash: "0".into(), rows: 8 }),
        file: format!("data/grown/{}.jsonl", ask.run),
        total,
        open,
        offset: ask.offset,
        rows,
        parents,
        ..GrownPage::default()
    }
}
