//! The map of a sample of the rows: where each stands, and to which group it belongs.

use serde::{Deserialize, Serialize};

/// Groups that have a sign and a colour of their own; the rest share one.
pub const GROUPS_MAX: usize = 6;

/// How the map is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Neighbours stand together.
    #[default]
    Neighbours,
    /// The two directions along which rows differ most.
    Principal,
}

/// A row on the map, in -1..1 on both axes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dot {
    pub row: String,
    pub x: f32,
    pub y: f32,
    /// Place in [`MapView::groups`].
    pub group: usize,
}

/// The map, its dots told apart by a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MapView {
    pub by: String,
    /// As asked for; the principal axes where there is no other yet.
    pub layout: Layout,
    /// How far neighbours on the map are neighbours indeed; 1: all (Venna and Kaski 2001).
    pub trust: Option<f64>,
    pub dots: Vec<Dot>,
    /// Names with their dots, the most common first; at most [`GROUPS_MAX`], then the rest as one.
    pub groups: Vec<(String, usize)>,
    /// Rows that the dots are a sample of.
    pub rows: usize,
}
