//! Every operation forward in f64: the definition that kernels and gradients are held to.

use std::ops::Range;

use smidgen_tensor::AttentionShape;

/// A matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mat {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) data: Vec<f64>,
}

impl Mat {
    pub(crate) fn zeros(rows: usize, cols: usize) -> Mat {
        Mat { rows, cols, data: vec![0.0; rows * cols] }
    }

    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.cols..][..self.cols]
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.data[row * self.cols..][..self.cols]
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Row `tokens[i]` of the table at row i.
pub(crate) fn embedding(table: &Mat, tokens: &[u32]) -> Mat {
    let mut out = Mat::zeros(tokens.len(), table.cols);
    for (i, token) in tokens.iter().enumerate() {
        out.row_mut(i).copy_from_slice(table.row(*token as usize));
    }
    out
}

/// `x / sqrt(mean(x^2) + eps) * w` over groups of `w.cols` columns inside `range`.
pub(crate) fn rms_norm(x: &Mat, w: &Mat, eps: f32, range: Range<usize>) -> Mat {
    let mut out = x.clone();
    for row in 0..x.rows {
        for at in range.clone().step_by(w.cols) {
            let group = &mut out.row_mut(row)[at..at + w.cols];
            let r = 1.0 / (dot(group, group) / w.cols as f64 + f64::from(eps)).sqrt();
            group.iter_mut().zip(&w.data).for_each(|(x, w)| *x *= r * w);
        }
    }
    out
}

/// Pair (j, j + E/2) of every head in `range` turns by `position * theta^(-2j/E)`.
pub(crate) fn rope(x: &Mat, e: usize, theta: f64, positions: &[u32], range: Range<usize>) -> Mat {
    let mut out = x.clone();
    for (row, position) in positions.iter().enumerate() {
        for head in out.row_mut(row)[range.clone()].chunks_exact_mut(e) {
            for j in 0..e / 2 {
                let angle = f64::from(*position) * theta.powf(-2.0 * j as f64 / e as f64);
                let (a, b) = (head[j], head[j + e / 2]);
                head[j] = a * angle.cos() - b * angle.sin();
                head[j + e / 2] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    out
}

/// Softmax attention of every query over the prefix, the first `lens` rows of it where these are given,
/// and its own document up to itself.
pub(crate) fn attention(
    qkv: &Mat,
    s: AttentionShape,
    starts: Option<&[u32]>,
    prefix: Option<(&Mat, &Mat)>,
    lens: Option<&[u32]>,
) -> Mat {
    let e = s.head_dim;
    let mut out = Mat::zeros(s.batch * s.tokens, s.heads * e);
    for (row, head) in (0..out.rows).flat_map(|row| (0..s.heads).map(move |head| (row, head))) {
        let (batch, kv) = (row / s.tokens, head / (s.heads / s.kv_heads));
        let first = starts.map_or(0, |starts| starts[row] as usize);
        let query = &qkv.row(row)[head * e..][..e];
        let (key_col, value_col) = ((s.heads + kv) * e, (s.heads + s.kv_heads + kv) * e);
        let before = prefix.into_iter().flat_map(|(keys, values)| {
            let seen = lens.map_or(s.prefix, |lens| lens[batch] as usize);
            let rows = batch * s.prefix..batch * s.prefix + seen;
            rows.map(move |r| (&keys.row(r)[kv * e..][..e], &values.row(r)[kv * e..][..e]))
        });
        let own = (batch * s.tokens + first..=row)
            .map(|r| (&qkv.row(r)[key_col..][..e], &qkv.row(r)[value_col..][..e]));
        let seen: Vec<(f64, &[f64])> = before
            .chain(own)
            .map(|(key, value)| (dot(query, key) / (e as f64).sqrt(), value))
            .collect();
        let most = seen.iter().fold(f64::NEG_INFINITY, |m, (score, _)| m.max(*score));
        let sum: f64 = seen.iter().map(|(score, _)| (score - most).exp()).sum();
        let out = &mut out.row_mut(row)[head * e..][..e];
        for (score, value) in &seen {
            let p = (score - most).exp() / sum;
            out.iter_mut().zip(*value).for_each(|(o, v)| *o += p * v);
        }
    }
    out
}

/// `x W^T + b` for every weight, side by side, plus the residual.
pub(crate) fn linear(
    x: &Mat,
    weights: &[&Mat],
    biases: &[Option<&Mat>],
    residual: Option<&Mat>,
) -> Mat {
    let mut out = Mat::zeros(x.rows, weights.iter().map(|w| w.rows).sum());
    for row in 0..x.rows {
        let mut col = 0;
        for (weight, bias) in weights.iter().zip(biases) {
            for o in 0..weight.rows {
                let bias = bias.map_or(0.0, |b| b.data[o]);
                let rest = residual.map_or(0.0, |r| r.row(row)[col]);
                out.row_mut(row)[col] = dot(x.row(row), weight.row(o)) + bias + rest;
                col += 1;
            }
        }
    }
    out
}

/// `silu(gate) * up` of rows `[gate | up]`.
pub(crate) fn swiglu(x: &Mat) -> Mat {
    let width = x.cols / 2;
    let mut out = Mat::zeros(x.rows, width);
    for row in 0..x.rows {
        let (gate, up) = x.row(row).split_at(width);
        for (i, out) in out.row_mut(row).iter_mut().enumerate() {
            *out = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
        }
    }
    out
}

/// `scale * sum_i weight_i * (logsumexp(W x_i) - (W x_i)[target_i])`.
pub(crate) fn head_loss(x: &Mat, w: &Mat, targets: &[u32], weights: &[f32], scale: f32) -> Mat {
    let mut loss = 0.0;
    for (row, (target, weight)) in targets.iter().zip(weights).enumerate() {
        let logits: Vec<f64> = (0..w.rows).map(|v| dot(x.row(row), w.row(v))).collect();
        let most = logits.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
        let sum: f64 = logits.iter().map(|x| (x - most).exp()).sum();
        loss += f64::from(*weight) * (most + sum.ln() - logits[*target as usize]);
    }
    Mat { rows: 1, cols: 1, data: vec![loss * f64::from(scale)] }
}

/// The error function: its series, and the continued fraction of what is missing to 1.
fn erf(x: f64) -> f64 {
    let size = x.abs();
    let value = if size < 3.0 {
        let (mut term, mut sum, mut n) = (size, size, 0.0);
        while f64::abs(term) > 1e-17 {
            n += 1.0;
            term *= -size * size / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let rest = (1..60).rev().fold(size, |rest, k| size + f64::from(k) / 2.0 / rest);
        1.0 - (-size * size).exp() / rest / std::f64::consts::PI.sqrt()
    };
    value.copysign(x)
}

/// `x Phi(x)`.
pub(crate) fn gelu(x: &Mat) -> Mat {
    let data = x.data.iter().map(|x| x * 0.5 * (1.0 + erf(x / 2f64.sqrt()))).collect();
    Mat { data, ..x.clone() }
}

/// `x + y`.
pub(crate) fn add(x: &Mat, y: &Mat) -> Mat {
    let data = x.data.iter().zip(&y.data).map(|(x, y)| x + y).collect();
    Mat { data, ..x.clone() }
}

/// `r + g sigmoid(logits)[head] p[head, :]`, with `g` for every row and head.
pub(crate) fn gated_add(r: &Mat, p: &Mat, logits: &Mat, gates: impl Fn(usize) -> f64) -> Mat {
    let (mut out, e) = (r.clone(), r.cols / logits.cols);
    for (i, out) in out.data.iter_mut().enumerate() {
        let head = i / e;
        *out += gates(head) / (1.0 + (-logits.data[head]).exp()) * p.data[i];
    }
    out
}

/// `base` with the rows of `x` in their places.
pub(crate) fn put_rows(base: &Mat, x: &Mat, places: &[u32]) -> Mat {
    let mut out = base.clone();
    for (i, place) in places.iter().enumerate() {
        out.row_mut(*place as usize).copy_from_slice(x.row(i));
    }
    out
}
