//! The map over the whole screen: dots by stratum, outcome or any key, and rows chosen by a box drawn with keys.
//!
//! Groups are told apart by colour and by sign: where the theme has no colours, every dot is the sign of its group.

use ratatui::layout::Rect;

use super::{Layer, TextPurpose};
use crate::domain::api::{PICKED_MAX, Request};
use crate::domain::map::{Dot, GROUPS_MAX, Layout, MapView};
use crate::domain::words::counted;
use crate::tui::app::{App, Mood, Purpose};
use crate::tui::keymap::Action;
use crate::tui::screens::{WIDE, body_of, empty};
use crate::tui::theme::Role;
use crate::tui::widgets::chart::Grid;
use crate::tui::widgets::{Painter, number, text};

/// Signs of the groups, and of the rest.
const SIGNS: [&str; GROUPS_MAX + 1] = ["o", "x", "+", "*", "#", "%", "."];
/// Cells that a far step of the cursor goes.
const FAR: u16 = 8;

/// The layer's state.
#[derive(Clone, Debug)]
pub struct Map {
    by: String,
    layout: Layout,
    /// None while it is being read.
    found: Option<Result<MapView, String>>,
    /// Cell of the cursor, and of the first corner of the box.
    at: (u16, u16),
    corner: Option<(u16, u16)>,
}

/// Where dots and legend stand within the layer.
fn areas(body: Rect) -> (Rect, Rect) {
    let inner = Rect {
        x: body.x + 1,
        y: body.y + 1,
        width: body.width.saturating_sub(2),
        height: body.height.saturating_sub(2),
    };
    if body.width >= WIDE {
        let legend = 30;
        let dots = Rect { width: inner.width - legend - 1, ..inner };
        return (dots, Rect { x: dots.right() + 1, width: legend, ..inner });
    }
    let legend = 2.min(inner.height);
    let dots = Rect { height: inner.height - legend, ..inner };
    (dots, Rect { y: dots.bottom(), height: legend, ..inner })
}

fn place(v: f32, n: u16) -> usize {
    let at = (f32::midpoint(v.clamp(-1.0, 1.0), 1.0) * f32::from(n.saturating_sub(1))).round();
    if at.is_finite() { at as usize } else { 0 }
}

/// The cell of a dot.
fn cell(dot: &Dot, area: Rect) -> (u16, u16) {
    // As the braille grid has it: two columns and four lines a cell.
    ((place(dot.x, area.width * 2) / 2) as u16, (place(dot.y, area.height * 4) / 4) as u16)
}

impl Map {
    fn view(&self) -> Option<&MapView> {
        self.found.as_ref()?.as_ref().ok()
    }

    /// The rows within the box; without one, under the cursor and right beside it.
    fn rows(&self, area: Rect) -> Vec<String> {
        let (x, y) = self.at;
        let (from, to) = match self.corner {
            Some((cx, cy)) => ((x.min(cx), y.min(cy)), (x.max(cx), y.max(cy))),
            None => ((x.saturating_sub(1), y.saturating_sub(1)), (x + 1, y + 1)),
        };
        let inside = |dot: &&Dot| {
            let (x, y) = cell(dot, area);
            (from.0..=to.0).contains(&x) && (from.1..=to.1).contains(&y)
        };
        self.view().map_or_else(Vec::new, |view| {
            view.dots.iter().filter(inside).map(|dot| dot.row.clone()).collect()
        })
    }
}

impl App {
    pub(crate) fn open_map(&mut self) {
        let (dots, _) = areas(body_of(self.size));
        let by = "stratum".to_owned();
        let at = (dots.width / 2, dots.height / 2);
        let map = Map { by, layout: Layout::default(), found: None, at, corner: None };
        self.layers.push(Layer::Map(map));
        self.read_map();
    }

    /// Asks for what the map is to show.
    fn read_map(&mut self) {
        let Some(Layer::Map(map)) = self.layers.iter().rev().find(|l| matches!(l, Layer::Map(_))) else {
            return;
        };
        let (by, layout) = (map.by.clone(), map.layout);
        self.ask(Purpose::Map(by.clone(), layout), Request::Map { by, layout });
    }

    pub(crate) fn map_arrived(&mut self, by: &str, layout: Layout, found: Result<MapView, String>) {
        let map = self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Map(map) if map.by == by && map.layout == layout => Some(map),
            _ => None,
        });
        if let Some(map) = map {
            map.found = Some(found);
        }
    }

    /// Another key for the colours of the map.
    pub(crate) fn map_by(&mut self, by: String) {
        if let Some(Layer::Map(map)) = self.layers.iter_mut().rev().find(|l| matches!(l, Layer::Map(_))) {
            map.by = if by.is_empty() { "stratum".into() } else { by };
            self.read_map();
        }
    }

    pub(crate) fn act_map(&mut self, action: Action) {
        let (dots, _) = areas(body_of(self.size));
        let Some(Layer::Map(map)) = self.layers.last_mut() else { return };
        let (x, y) = map.at;
        match action {
            Action::Back if map.corner.is_some() => map.corner = None,
            Action::Back => drop(self.layers.pop()),
            Action::CursorLeft => map.at.0 = x.saturating_sub(1),
            Action::CursorRight => map.at.0 = x + 1,
            Action::CursorFarLeft => map.at.0 = x.saturating_sub(FAR),
            Action::CursorFarRight => map.at.0 = x + FAR,
            Action::Up => map.at.1 = y.saturating_sub(1),
            Action::Down => map.at.1 = y + 1,
            Action::PageUp => map.at.1 = y.saturating_sub(FAR / 2),
            Action::PageDown => map.at.1 = y + FAR / 2,
            Action::MapCorner if map.corner.is_none() => map.corner = Some(map.at),
            Action::MapCorner | Action::Open => {
                let rows = map.rows(dots);
                if rows.is_empty() {
                    map.corner = None;
                    self.notice(Mood::Plain, "no row stands there");
                    return;
                }
                let title = format!("{} of the map", counted(rows.len(), "row"));
                let picked = if rows.len() > 1 {
                    rows.iter().take(PICKED_MAX).cloned().collect()
                } else {
                    Default::default()
                };
                self.show_rows(title, rows);
                self.strata.picked = picked;
            }
            Action::MapColour => {
                // By what rows are, then by how they are answered.
                let turn = ["stratum", "base", "best", "part", "gold"];
                let at = turn.iter().position(|by| *by == map.by);
                turn[at.map_or(0, |at| (at + 1) % turn.len())].clone_into(&mut map.by);
                self.read_map();
            }
            Action::MapKey => {
                let by = map.by.clone();
                self.type_line("colour the map by", by, TextPurpose::MapBy);
            }
            Action::MapLayout => {
                map.layout = match map.layout {
                    Layout::Neighbours => Layout::Principal,
                    Layout::Principal => Layout::Neighbours,
                };
                self.read_map();
            }
            _ => {}
        }
        if let Some(Layer::Map(map)) = self.layers.last_mut() {
            map.at =
                (map.at.0.min(dots.width.saturating_sub(1)), map.at.1.min(dots.height.saturating_sub(1)));
        }
    }
}

/// Of a group, by its place in the list of groups.
fn role(group: usize) -> Role {
    if group < GROUPS_MAX { Role::series(group) } else { Role::Dim }
}

pub fn draw(p: &mut Painter<'_>, body: Rect, map: &Map) {
    p.clear(body);
    let title = match map.view() {
        Some(view) => {
            let layout = match view.layout {
                Layout::Neighbours => "neighbours together",
                Layout::Principal => "principal axes",
            };
            let trust =
                view.trust.map_or(String::new(), |t| format!(", trustworthiness {}", number::share(t, 2)));
            format!(
                "map by {}: {} of {} rows, {layout}{trust}",
                view.by,
                number::count(view.dots.len()),
                number::count(view.rows)
            )
        }
        None => format!("map by {}", map.by),
    };
    p.pane(body, &title, true);
    let (area, legend) = areas(body);
    let view = match &map.found {
        None => return empty(p, area, "reading the map ..."),
        Some(Err(why)) => {
            p.paragraph(area, 1, why, Role::Bad);
            return;
        }
        Some(Ok(view)) if view.dots.is_empty() => return empty(p, area, "the map comes with the strata"),
        Some(Ok(view)) => view,
    };
    // The largest group first, so that the small ones are on top of it; what is told apart from nothing is below all.
    let mut dots: Vec<&Dot> = view.dots.iter().collect();
    dots.sort_by_key(|dot| (dot.group < GROUPS_MAX, dot.group));
    if p.style(Role::Series1).fg == p.style(Role::Series2).fg {
        for dot in dots {
            let (x, y) = cell(dot, area);
            let sign = SIGNS.get(dot.group).copied().unwrap_or(".");
            p.put(area, x, y, 1, sign, role(dot.group));
        }
    } else {
        let mut grid = Grid::new(area.width, area.height);
        for dot in dots {
            grid.dot(place(dot.x, area.width * 2), place(dot.y, area.height * 4), role(dot.group));
        }
        grid.draw(p, area);
    }
    boxes(p, area, map);
    draw_legend(p, legend, view, map.rows(area).len(), map.corner.is_some());
}

/// The box under way, and the cursor.
fn boxes(p: &mut Painter<'_>, area: Rect, map: &Map) {
    let (x, y) = map.at;
    if let Some((cx, cy)) = map.corner {
        let (left, right, top, bottom) = (x.min(cx), x.max(cx), y.min(cy), y.max(cy));
        let signs = p.look.signs.border;
        for x in left..=right {
            p.put(area, x, top, 1, signs.horizontal_top, Role::Key);
            p.put(area, x, bottom, 1, signs.horizontal_bottom, Role::Key);
        }
        for y in top..=bottom {
            p.put(area, left, y, 1, signs.vertical_left, Role::Key);
            p.put(area, right, y, 1, signs.vertical_right, Role::Key);
        }
        for (x, y, sign) in [
            (left, top, signs.top_left),
            (right, top, signs.top_right),
            (left, bottom, signs.bottom_left),
            (right, bottom, signs.bottom_right),
        ] {
            p.put(area, x, y, 1, sign, Role::Key);
        }
    }
    p.put(area, x, y, 1, "+", Role::Cursor);
}

/// ```text
/// o card arrival  812
/// ```
fn draw_legend(p: &mut Painter<'_>, area: Rect, view: &MapView, inside: usize, boxed: bool) {
    let entries: Vec<(&str, String, String, Role)> = view
        .groups
        .iter()
        .enumerate()
        .map(|(i, (name, n))| {
            let sign = SIGNS.get(i.min(GROUPS_MAX)).copied().unwrap_or(".");
            (sign, text::one_line(name, " "), number::count(*n), role(i))
        })
        .collect();
    let told = match (inside, boxed) {
        (n, true) => format!("{} in the box", counted(n, "row")),
        (n, false) => format!("{} here", counted(n, "row")),
    };
    if area.height > 2 {
        let ellipsis = p.look.signs.ellipsis;
        for (y, (sign, name, n, role)) in entries.iter().enumerate() {
            let room = usize::from(area.width).saturating_sub(3 + n.len());
            let line = format!("{sign} {} {n}", text::cut_middle(name, room, ellipsis));
            p.put(area, 0, y as u16, area.width, &line, *role);
        }
        p.put(area, 0, entries.len() as u16 + 1, area.width, &told, Role::Text);
        return;
    }
    // Two lines: as many entries as have room, each cut to its share.
    let room = usize::from(area.width).saturating_sub(text::width(&told) + 2);
    let share = (2 * usize::from(area.width)).saturating_sub(text::width(&told) + 4) / entries.len().max(1);
    let (mut x, mut y) = (0, 0);
    for (sign, name, n, role) in &entries {
        let mut line = format!("{sign} {name} {n}");
        if text::width(&line) + 2 > share.max(10) {
            let name = text::cut_middle(name, share.max(10) - 4, p.look.signs.ellipsis);
            line = format!("{sign} {name}");
        }
        let width = text::width(&line) as u16;
        let end = if y == 0 { usize::from(area.width) } else { room };
        if usize::from(x + width) > end {
            (x, y) = (0, y + 1);
        }
        if y > 1 {
            break;
        }
        x += p.put(area, x, y, width, &line, *role) + 2;
    }
    p.put_right(area, area.width, 1, area.width, &told, Role::Text);
}
