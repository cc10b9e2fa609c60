//! What all screens draw with. Foreign text goes through [`Painter`], which cleans it.

pub mod chart;
pub mod diff;
pub mod input;
pub mod number;
pub mod text;
pub mod textarea;
pub mod window;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::signs::Signs;
use super::theme::{Role, Theme};

/// How everything looks: colours and signs.
#[derive(Clone, Debug)]
pub struct Look {
    pub theme: Theme,
    pub signs: Signs,
}

/// A piece of a line with its role.
pub type Piece = (String, Role);

/// Draws cleaned text into a buffer; never outside of it.
#[derive(Debug)]
pub struct Painter<'a> {
    pub buf: &'a mut Buffer,
    pub look: &'a Look,
}

impl Painter<'_> {
    pub fn style(&self, role: Role) -> Style {
        self.look.theme.style(role)
    }

    /// Text on one row of `area`, from column `x`, in at most `width` cells; returns the cells used.
    pub fn put(&mut self, area: Rect, x: u16, y: u16, width: u16, text: &str, role: Role) -> u16 {
        let style = self.style(role);
        self.put_styled(area, x, y, width, text, style)
    }

    pub fn put_styled(&mut self, area: Rect, x: u16, y: u16, width: u16, text: &str, style: Style) -> u16 {
        let area = area.intersection(self.buf.area);
        if y >= area.height || x >= area.width {
            return 0;
        }
        let room = usize::from(width.min(area.width - x));
        let line = text::one_line(text, self.look.signs.newline);
        let line = if self.look.signs.ascii { text::ascii(&line) } else { line.into() };
        let line = text::cut(&line, room, self.look.signs.ellipsis);
        let (end, _) = self.buf.set_stringn(area.x + x, area.y + y, &line, room, style);
        end.saturating_sub(area.x + x)
    }

    /// Text that ends before column `end`.
    pub fn put_right(&mut self, area: Rect, end: u16, y: u16, width: u16, text: &str, role: Role) {
        let used = (text::width(&text::clean(text)) as u16).min(width);
        self.put(area, end.saturating_sub(used), y, used, text, role);
    }

    /// Pieces one after the other; returns the column after the last.
    pub fn pieces(&mut self, area: Rect, x: u16, y: u16, pieces: &[Piece]) -> u16 {
        let mut at = x;
        for (text, role) in pieces {
            at += self.put(area, at, y, u16::MAX, text, *role);
        }
        at
    }

    /// A border with a title; returns the inside.
    pub fn pane(&mut self, area: Rect, title: &str, focused: bool) -> Rect {
        let area = area.intersection(self.buf.area);
        if area.width < 2 || area.height < 2 {
            return Rect::new(area.x, area.y, 0, 0);
        }
        let role = if focused { Role::BorderFocused } else { Role::Border };
        let style = self.style(role);
        let set = self.look.signs.border;
        let (right, bottom) = (area.right() - 1, area.bottom() - 1);
        for x in area.x + 1..right {
            self.buf[(x, area.y)].set_symbol(set.horizontal_top).set_style(style);
            self.buf[(x, bottom)].set_symbol(set.horizontal_bottom).set_style(style);
        }
        for y in area.y + 1..bottom {
            self.buf[(area.x, y)].set_symbol(set.vertical_left).set_style(style);
            self.buf[(right, y)].set_symbol(set.vertical_right).set_style(style);
        }
        for (x, y, symbol) in [
            (area.x, area.y, set.top_left),
            (right, area.y, set.top_right),
            (area.x, bottom, set.bottom_left),
            (right, bottom, set.bottom_right),
        ] {
            self.buf[(x, y)].set_symbol(symbol).set_style(style);
        }
        if !title.is_empty() && area.width > 6 {
            let role = if focused { Role::Title } else { Role::Text };
            // A text without a colour of its own would take the border's.
            let room = (text::width(&text::clean(title)) as u16).min(area.width - 5);
            self.clear(Rect { x: area.x + 1, width: room + 2, height: 1, ..area });
            let used = self.put(area, 2, 0, area.width - 5, title, role);
            self.put(area, 1, 0, 1, " ", Role::Border);
            self.put(area, 2 + used, 0, 1, " ", Role::Border);
        }
        Rect::new(area.x + 1, area.y + 1, area.width - 2, area.height - 2)
    }

    /// Empties an area: blanks on the theme's background, where it has one.
    pub fn clear(&mut self, area: Rect) {
        let area = area.intersection(self.buf.area);
        let style = self.style(Role::Text);
        for y in area.y..area.bottom() {
            for x in area.x..area.right() {
                self.buf[(x, y)].reset();
                self.buf[(x, y)].set_style(style);
            }
        }
    }

    /// Lays a role's style over one row of an area: the selection.
    pub fn highlight(&mut self, area: Rect, y: u16, role: Role) {
        let area = area.intersection(self.buf.area);
        if y < area.height {
            let style = self.style(role);
            self.buf.set_style(Rect::new(area.x, area.y + y, area.width, 1), style);
        }
    }

    /// Wrapped text from row `y` on; returns the first free row.
    pub fn paragraph(&mut self, area: Rect, y: u16, text: &str, role: Role) -> u16 {
        let room = usize::from(area.height.saturating_sub(y));
        let mut at = y;
        for line in text::wrap(text, usize::from(area.width), room) {
            self.put(area, 0, at, area.width, &line, role);
            at += 1;
        }
        at
    }

    /// A bar of `width` cells, filled to a share of 0..1.
    pub fn bar(&mut self, area: Rect, x: u16, y: u16, width: u16, share: f64, role: Role) {
        let full = ((share.clamp(0.0, 1.0) * f64::from(width)).round() as u16).min(width);
        let signs = &self.look.signs;
        let (on, off) = (signs.bar_full.repeat(full.into()), signs.bar_empty.repeat((width - full).into()));
        let at = self.put(area, x, y, full, &on, role);
        self.put(area, x + at, y, width - full, &off, Role::Dim);
    }
}
