//! Distribution functions that tests and intervals need, to about 1e-13.

/// The standard normal's 97.5% point.
pub const Z95: f64 = 1.959_963_984_540_054;

/// ln Gamma(x) for x > 0 (Lanczos 1964, g = 7 with nine coefficients).
pub fn ln_gamma(x: f64) -> f64 {
    const C: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        // Reflection.
        let pi = std::f64::consts::PI;
        return (pi / (pi * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let t = x + 7.5;
    let sum = C.iter().enumerate().skip(1).fold(C[0], |sum, (i, c)| sum + c / (x + i as f64));
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// Lentz's evaluation of a continued fraction `1 / (1 + a1 / (1 + a2 / (1 + ...)))`, its terms `(a, b)` given from the first on.
fn continued(mut term: impl FnMut(u32) -> (f64, f64), b0: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let kept = |x: f64| if x.abs() < TINY { TINY } else { x };
    let (mut value, mut c, mut d) = (kept(b0), kept(b0), 0.0);
    for i in 1..10_000 {
        let (a, b) = term(i);
        d = 1.0 / kept(b + a * d);
        c = kept(b + a / c);
        let factor = c * d;
        value *= factor;
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// The regularized incomplete beta function I_x(a, b), by its continued fraction (Abramowitz and Stegun 26.5.8).
pub fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // It converges fast below the mean only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p();
    let fraction = continued(
        |i| {
            let m = f64::from(i / 2);
            let a_m = a + 2.0 * m;
            let numerator = if i % 2 == 0 {
                m * (b - m) * x / ((a_m - 1.0) * a_m)
            } else {
                -(a + m) * (a + b + m) * x / (a_m * (a_m + 1.0))
            };
            (numerator, 1.0)
        },
        1.0,
    );
    front.exp() / (a * fraction)
}

/// P(|Z| >= |z|) of the standard normal.
pub fn normal_two_sided(z: f64) -> f64 {
    let z = z.abs();
    if z.is_nan() {
        return 1.0;
    }
    if z < 3.0 {
        // 1 - erf(z / sqrt 2), erf as 2/sqrt(pi) exp(-x^2) sum 2^k x^(2k+1) / (2k+1)!!
        let x = z / std::f64::consts::SQRT_2;
        let (mut term, mut sum) = (x, x);
        for k in 1..200 {
            term *= 2.0 * x * x / f64::from(2 * k + 1);
            sum += term;
            if term < 1e-17 * sum {
                break;
            }
        }
        return 1.0 - std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum;
    }
    // Laplace's fraction: density / (z + 1 / (z + 2 / (z + 3 / ...))), twice.
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    2.0 * density / continued(|i| (f64::from(i), z), z)
}

/// P(|T| >= |t|) of Student's t with `df` degrees of freedom; of the normal where there are no end of them.
pub fn student_two_sided(t: f64, df: f64) -> f64 {
    if !df.is_finite() {
        return normal_two_sided(t);
    }
    if t.is_infinite() {
        return 0.0;
    }
    incomplete_beta(df / 2.0, 0.5, df / (df + t * t))
}

/// Student's 97.5% point. Infinite without a degree of freedom.
pub fn student_95(df: f64) -> f64 {
    if df < 1.0 {
        return f64::INFINITY;
    }
    // 12.71 at one degree of freedom is the largest.
    let (mut low, mut high) = (1.9, 13.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if student_two_sided(middle, df) > 0.05 {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// ln P(X = k) of a binomial with `n` draws at `p`, 0 < p < 1.
pub fn ln_binomial(k: usize, n: usize, p: f64) -> f64 {
    let (k, n) = (k as f64, n as f64);
    ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0) + k * p.ln() + (n - k) * (-p).ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        /// z, p (scipy).
        normal: Vec<(f64, f64)>,
        /// t, degrees of freedom, p.
        student: Vec<(f64, f64, f64)>,
        /// degrees of freedom, 97.5% point.
        student_95: Vec<(f64, f64)>,
        /// x, ln Gamma(x).
        ln_gamma: Vec<(f64, f64)>,
        /// k, n, p, ln P.
        ln_binomial: Vec<(usize, usize, f64, f64)>,
    }

    fn close(got: f64, want: f64) -> bool {
        (got - want).abs() <= 1e-11 * want.abs().max(1e-300)
    }

    #[test]
    fn distributions_are_scipys() {
        let all: Reference =
            serde_json::from_str(include_str!("../../tests/fixtures/score/distributions.json")).unwrap();
        for (z, p) in all.normal {
            assert!(close(normal_two_sided(z), p), "{z}: {} {p}", normal_two_sided(z));
        }
        for (t, df, p) in all.student {
            assert!(close(student_two_sided(t, df), p), "{t} {df}: {} {p}", student_two_sided(t, df));
        }
        for (df, t) in all.student_95 {
            assert!((student_95(df) - t).abs() < 1e-9, "{df}: {} {t}", student_95(df));
        }
        for (x, want) in all.ln_gamma {
            assert!((ln_gamma(x) - want).abs() <= 1e-12 * want.abs().max(1.0), "{x}: {} {want}", ln_gamma(x));
        }
        for (k, n, p, want) in all.ln_binomial {
            assert!((ln_binomial(k, n, p) - want).abs() <= 1e-10 * want.abs().max(1.0), "{k} {n} {p}");
        }
        assert_eq!((normal_two_sided(0.0), student_two_sided(0.0, 5.0)), (1.0, 1.0));
        assert_eq!(student_95(0.0), f64::INFINITY);
    }
}
