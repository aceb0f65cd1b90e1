//! How fast the kernels of this processor are on layers as small networks have them: 10^9 products a second, best of many
//! rounds, all instruction sets in turn. Figures are of this machine and its load; ratios say more.

use flotilla_int8::{Conv, Depthwise, Isa, Kernel, Requant, SLACK, View};
use std::time::{Duration, Instant};

/// How long each layer is measured.
const TIME: Duration = Duration::from_millis(300);

fn best(mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::MAX;
    while begin.elapsed() < TIME {
        let start = Instant::now();
        for _ in 0..4 {
            run();
        }
        best = best.min(start.elapsed().as_secs_f64() / 4.0);
    }
    best
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layers = [
        ("3x3, 32 x 32 x 16 to 16", 32, 16, 16, 3, 1),
        ("3x3, 32 x 32 x 3 to 16", 32, 3, 16, 3, 1),
        ("3x3, 16 x 16 x 64 to 64", 16, 64, 64, 3, 1),
        ("1x1, 24 x 24 x 64 to 64", 24, 64, 64, 1, 1),
        ("1x1, 6 x 6 x 256 to 256", 6, 256, 256, 1, 1),
        ("3x3 a channel, 24 x 24 x 64", 24, 64, 64, 3, 64),
        ("3x3 a channel, 48 x 48 x 16", 48, 16, 16, 3, 16),
    ];
    for (name, side, inputs, outputs, window, groups) in layers {
        print!("{name:32}");
        let halo = side + window - 1;
        let (input, output) = (View::packed(halo, halo, inputs), View::packed(side, side, outputs));
        let products = side * side * outputs * window * window * (inputs / groups);
        let weights: Vec<i8> =
            (0..outputs * window * window * (inputs / groups)).map(|n| (n * 37 % 251) as i8).collect();
        let bytes: Vec<u8> = (0..input.end() + SLACK).map(|n| (n * 31 % 253) as u8).collect();
        let mut out = vec![0; output.end()];
        for isa in Isa::here() {
            let requant = Requant::new(&vec![1e-4; outputs], 3, 0, 255)?;
            let (kernel, bias) = (Kernel::square(window, 1), vec![5; outputs]);
            let seconds = if groups == 1 {
                let layer = Conv::new(isa, kernel, input, output, 1, &weights, &bias, 128, requant)?;
                best(|| drop(layer.run(&bytes, &mut out)))
            } else {
                let layer = Depthwise::new(isa, kernel, input, output, &weights, &bias, 128, requant)?;
                best(|| drop(layer.run(&bytes, &mut out)))
            };
            print!("  {isa} {:6.1}", products as f64 / seconds / 1e9);
        }
        println!();
    }
    Ok(())
}
