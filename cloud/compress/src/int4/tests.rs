//! What 4 bits may lose.

use super::{even_block, quantise};
use crate::layer::Matrix;

fn matrix(rows: usize, cols: usize, transposed: bool) -> Matrix {
    Matrix { rows, cols, transposed }
}

fn error(data: &[f32], found: &[f32]) -> f64 {
    data.iter().zip(found).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[test]
fn blocks_divide_rows_evenly() {
    assert_eq!([1, 7, 27, 32, 64, 144, 576, 37].map(even_block), [1, 7, 27, 32, 32, 24, 32, 1]);
}

#[test]
fn each_block_has_its_own_scale_whatever_the_order_in_memory() {
    // Row 0 is small, row 1 large; columns lie apart in the second form.
    let rows: Vec<f32> =
        (0..128).map(|i| ((i * 37 % 15) as f32 - 7.0) * if i < 64 { 0.01 } else { 1.0 }).collect();
    let by_row = quantise(&rows, matrix(2, 64, false), 32, false, None);
    let columns: Vec<f32> = (0..128).map(|place| rows[place % 2 * 64 + place / 2]).collect();
    let by_column = quantise(&columns, matrix(2, 64, true), 32, false, None);
    assert_eq!((by_row.of_row, by_row.scales.len()), (2, 4));
    assert_eq!(by_row.scales, by_column.scales);
    assert!(error(&rows, &by_row.floats(matrix(2, 64, false))) < 1e-3);
    assert_eq!(
        error(&columns, &by_column.floats(matrix(2, 64, true))),
        error(&rows, &by_row.floats(matrix(2, 64, false)))
    );
}

#[test]
fn zero_points_help_where_all_lies_on_one_side() {
    let data: Vec<f32> = (0..64).map(|i| (i * 29 % 64) as f32 / 64.0).collect();
    let shape = matrix(2, 32, false);
    let (plain, shifted) = (quantise(&data, shape, 32, false, None), quantise(&data, shape, 32, true, None));
    assert!(plain.zeros.iter().all(|zero| *zero == 8));
    assert!(error(&data, &shifted.floats(shape)) < 0.5 * error(&data, &plain.floats(shape)));
}

#[test]
fn zeros_stay_zero_and_a_short_last_block_is_whole() {
    let shape = matrix(1, 40, false);
    let blocks = quantise(&[0.0; 40], shape, 32, true, None);
    assert!(blocks.floats(shape).iter().all(|v| *v == 0.0));
    assert_eq!(blocks.of_row, 2);
    let huge = quantise(&[1e30; 40], shape, 32, false, None);
    assert!(
        huge.floats(shape).iter().all(|v| v.is_finite()),
        "scales stay finite, and the search refuses the rest"
    );
}
