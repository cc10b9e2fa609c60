//! A list of which only a window is known: where the selection stands, what to draw, what to fetch.

/// A place in a list of `total` things, of which `rows`, from `offset` on, are here.
#[derive(Clone, Debug)]
pub struct Window<T> {
    pub total: usize,
    pub offset: usize,
    pub rows: Vec<T>,
    pub selected: usize,
    /// The first row on screen, as the selection last moved it.
    top: usize,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { total: 0, offset: 0, rows: Vec::new(), selected: 0, top: 0 }
    }
}

impl<T> Window<T> {
    /// Rows fetched at once: enough for several screens.
    pub const CHUNK: usize = 200;

    pub fn get(&self, i: usize) -> Option<&T> {
        i.checked_sub(self.offset).and_then(|i| self.rows.get(i))
    }

    pub fn current(&self) -> Option<&T> {
        self.get(self.selected)
    }

    /// A window arrived.
    pub fn fill(&mut self, total: usize, offset: usize, rows: Vec<T>) {
        (self.total, self.offset, self.rows) = (total, offset, rows);
        self.selected = self.selected.min(total.saturating_sub(1));
    }

    /// Moves the selection, keeping `height` rows on screen around it.
    pub fn go(&mut self, to: usize, height: usize) {
        self.selected = to.min(self.total.saturating_sub(1));
        self.top = scroll(self.top, self.selected, height);
    }

    pub fn step(&mut self, by: isize, height: usize) {
        self.go(self.selected.saturating_add_signed(by), height);
    }

    /// The first row to draw in `height` rows.
    pub fn top(&self, height: usize) -> usize {
        scroll(self.top, self.selected, height).min(self.total.saturating_sub(height))
    }

    /// Where the next window should start, when what is on screen is not here, or soon will not be: what lies ahead of somebody who
    /// scrolls is asked for before they come to it.
    pub fn missing(&self, height: usize) -> Option<usize> {
        let ahead = (Self::CHUNK / 2).saturating_sub(height) / 2;
        let top = self.top(height);
        let (from, to) = (top.saturating_sub(ahead), (top + height.max(1) + ahead).min(self.total));
        let here = self.offset..self.offset + self.rows.len();
        (from < here.start || to > here.end).then(|| self.selected.saturating_sub(Self::CHUNK / 2))
    }
}

/// The least scrolling that shows `selected` in `height` rows.
pub fn scroll(top: usize, selected: usize, height: usize) -> usize {
    if selected < top { selected } else { top.max((selected + 1).saturating_sub(height.max(1))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(total: usize, offset: usize) -> Window<usize> {
        let mut w = Window::default();
        w.fill(total, offset, (offset..(offset + Window::<usize>::CHUNK).min(total)).collect());
        w
    }

    #[test]
    fn a_far_jump_asks_for_the_rows_around_it_once_they_are_missing() {
        let mut w = filled(1_000_000, 0);
        assert_eq!(w.missing(20), None);
        w.go(500_000, 20);
        assert_eq!(w.missing(20), Some(499_900));
        w.fill(1_000_000, 499_900, (499_900..500_100).collect());
        assert_eq!((w.missing(20), w.current()), (None, Some(&500_000)));
        w.go(usize::MAX, 20);
        assert_eq!(w.selected, 999_999);
    }

    #[test]
    fn what_lies_ahead_is_asked_for_before_it_is_on_screen() {
        for height in [5, 20, 60] {
            let mut w = filled(1_000_000, 0);
            let mut asked = 0;
            for _ in 0..2_000 {
                w.step(1, height);
                let shown = w.top(height)..w.top(height) + height;
                assert!(shown.clone().all(|i| w.get(i).is_some()), "{height}: {shown:?}");
                if let Some(offset) = w.missing(height) {
                    w = Window { selected: w.selected, top: w.top, ..filled(1_000_000, offset) };
                    assert_eq!(w.missing(height), None, "what was asked for is enough");
                    asked += 1;
                }
            }
            assert!(asked > 10 && asked < 2_000 / height.min(20), "{height}: {asked}");
        }
    }

    #[test]
    fn scrolling_moves_no_more_than_it_must() {
        let mut w = filled(100, 0);
        w.step(5, 10);
        assert_eq!(w.top(10), 0);
        w.step(5, 10);
        assert_eq!(w.top(10), 1);
        w.step(-3, 10);
        assert_eq!(w.top(10), 1);
    }

    #[test]
    fn a_shrunken_list_keeps_a_valid_selection() {
        let mut w = filled(100, 0);
        w.go(90, 10);
        w.fill(3, 0, vec![1, 2, 3]);
        assert_eq!((w.selected, w.top(10), w.missing(10)), (2, 0, None));
        w.fill(0, 0, vec![]);
        assert_eq!((w.selected, w.current(), w.missing(10)), (0, None, None));
    }
}
