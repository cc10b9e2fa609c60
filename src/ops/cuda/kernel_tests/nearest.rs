use super::*;
use crate::ops::cuda::{Gpu, MOST_NEAREST};

/// The head of all rows sorted, by the same sums.
fn exact(
    queries: &[f32],
    table: &[f32],
    dim: usize,
    bias: Option<&[f32]>,
    k: usize,
) -> Vec<Vec<(usize, f32)>> {
    let found = queries.chunks(dim).map(|query| {
        let score = |(row, values): (usize, &[f32])| {
            let sum = values.iter().zip(query).fold(0.0_f32, |sum, (x, y)| y.mul_add(*x, sum));
            (row, sum + bias.map_or(0.0, |bias| bias[row]))
        };
        let mut all: Vec<(usize, f32)> = table.chunks(dim).enumerate().map(score).collect();
        all.retain(|(_, score)| *score > f32::NEG_INFINITY);
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(k);
        all
    });
    found.collect()
}

fn halved(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect()
}

fn flat(found: &[Vec<(usize, f32)>]) -> Vec<Vec<f32>> {
    found.iter().map(|row| row.iter().flat_map(|(at, score)| [*at as f32, *score]).collect()).collect()
}

#[test]
fn the_nearest_rows_are_the_exact_ones_at_ragged_sizes_in_f32_and_f16() {
    for (count, rows, dim, k) in [
        (1, 1, 1, 1),
        (1, 1000, 5, 10),
        (3, 63, 17, 5),
        (64, 64, 16, 64 - 4),
        (65, 65, 33, 3),
        (70, 130, 31, 1),
        (2, 7, 3, 20),
        (5, 2100, 8, MOST_NEAREST),
    ] {
        // Few different numbers, so that many rows score the same.
        let few = |n: usize, seed: u32| {
            exact_noise(n, seed, 3.0).iter().map(|x| x.round() / 2.0).collect::<Vec<f32>>()
        };
        for (queries, table) in [
            (exact_noise(count * dim, 1, 1.0), exact_noise(rows * dim, 2, 1.0)),
            (few(count * dim, 3), few(rows * dim, 4)),
        ] {
            let bias = exact_noise(rows, 5, 1.0);
            for (half, bias) in
                [(false, None), (true, None), (false, Some(&bias[..])), (true, Some(&bias[..]))]
            {
                let found = in_all_orders(|d| {
                    let gpu = Gpu::new(d.0.clone());
                    let on_device = gpu.nearest_table(&table, dim, bias, half).unwrap();
                    flat(&gpu.nearest(&on_device, &queries, k).unwrap())
                });
                let Some(found) = found else { return };
                let table = if half { halved(&table) } else { table.clone() };
                let wanted = flat(&exact(&queries, &table, dim, bias, k));
                assert_eq!(
                    found,
                    wanted,
                    "{count} x {rows} x {dim}, {k}, f16 {half}, bias {}",
                    bias.is_some()
                );
            }
        }
    }
}

#[test]
fn what_is_no_number_is_not_found_and_a_centroid_is_the_nearest() {
    let Some(launcher) = Emulator::new(0) else { return };
    let gpu = Gpu::new(launcher);
    let table = [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY, 1.0];
    let on_device = gpu.nearest_table(&table, 1, None, false).unwrap();
    assert_eq!(
        gpu.nearest(&on_device, &[1.0, 0.0], 9).unwrap(),
        [vec![(2, f32::INFINITY), (1, 1.0), (4, 1.0)], vec![(1, 0.0), (4, 0.0)]]
    );
    assert!(gpu.nearest(&on_device, &[], 3).unwrap().is_empty());
    assert_eq!(gpu.nearest(&on_device, &[1.0], 0).unwrap(), [vec![]]);
    assert!(gpu.nearest(&on_device, &[1.0], MOST_NEAREST + 1).is_err());
    assert!(gpu.nearest_table(&table, 2, None, false).is_err());

    // k-means: bias -|c|^2 / 2.
    let (points, centroids) = (exact_noise(200 * 6, 1, 1.0), exact_noise(9 * 6, 2, 1.0));
    let bias: Vec<f32> = centroids.chunks(6).map(|c| -c.iter().map(|x| x * x).sum::<f32>() / 2.0).collect();
    let on_device = gpu.nearest_table(&centroids, 6, Some(&bias), false).unwrap();
    for (point, found) in points.chunks(6).zip(gpu.nearest(&on_device, &points, 1).unwrap()) {
        let distance = |c: &[f32]| point.iter().zip(c).map(|(x, y)| (x - y).powi(2)).sum::<f32>();
        let least = centroids.chunks(6).map(distance).fold(f32::INFINITY, f32::min);
        assert!(distance(&centroids[6 * found[0].0..][..6]) <= least + 1e-5);
    }
}
