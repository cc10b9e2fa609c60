//! Token embedding: `y_t = table[id_t]`; backward: `d_table[id_t] += dy_t`.

use super::mat::{Mat, MatMut};

/// `ids` to `y` (ids x hidden) by rows of `table` (vocab x hidden); every id is below vocab.
pub fn embedding(table: Mat<'_>, ids: &[u32], mut y: MatMut<'_>) {
    for (i, id) in ids.iter().enumerate() {
        y.row_mut(i).copy_from_slice(table.row(*id as usize));
    }
}

/// Adds the rows of `dy` to the rows of `d_table` that they came from.
pub fn embedding_backward(dy: Mat<'_>, ids: &[u32], mut d_table: MatMut<'_>) {
    for (i, id) in ids.iter().enumerate() {
        for (d, g) in d_table.row_mut(*id as usize).iter_mut().zip(dy.row(i)) {
            *d += g;
        }
    }
}
