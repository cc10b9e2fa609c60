//! Saved views: which query a name stands for, checked before it is kept.

use super::filter::Finder;
use super::rows;
use super::state::{Engine, bad_input};
use crate::domain::api::{Decision, Failure};
use crate::domain::filter::{Filter, Test};
use crate::domain::views::{self, SavedView};

/// Views kept at most.
const VIEWS_MAX: usize = 1000;

/// The decision to keep a view, or to delete one.
///
/// # Errors
/// A name that no view can have, or that none has; a filter over keys that no row has.
pub fn decision(engine: &Engine, name: &str, view: Option<Box<SavedView>>) -> Result<Decision, Failure> {
    let name = views::name(name).map_err(bad_input)?.to_owned();
    let (known, count) = engine.read(|s| {
        let kept = &s.decisions.views;
        (kept.contains_key(&name), kept.len())
    });
    match &view {
        None if !known => {
            return Err(bad_input(format!("no view `{name}`; `tunebench data views` lists them")));
        }
        Some(_) if !known && count >= VIEWS_MAX => {
            return Err(bad_input(format!("{VIEWS_MAX} views are kept already; delete one")));
        }
        Some(view) => {
            let (_, loaded) = rows::shown(engine)?;
            let finder = Finder::new(engine, &loaded);
            for term in &Filter::parse(&view.query.text).terms {
                if let Test::Key { key, .. } = &term.test {
                    finder.find(key)?;
                }
            }
        }
        None => {}
    }
    Ok(Decision::View { name, view })
}
