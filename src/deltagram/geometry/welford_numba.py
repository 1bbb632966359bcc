"""Welford's update of class means and squares, one sample after another: touches the rows of their classes only."""

from deltagram.arrays import F64
from deltagram.delta.compile_numba import f32, f64, i64, kernel, reads, void, writes


@kernel(
    void(reads(f32), reads(i64), writes(i64), writes(f64), writes(f64)),
    void(reads(f64), reads(i64), writes(i64), writes(f64), writes(f64)),
    any_order=True,
)
def absorb(features: F64, labels: F64, counts: F64, means: F64, traces: F64) -> None:
    """Add samples to counts, means and traces in place; all arrays flat, features and means row after row."""
    width = means.size // counts.size
    for sample in range(labels.size):
        label = labels[sample]
        counts[label] += 1
        share = 1.0 / counts[label]
        row = means[label * width : (label + 1) * width]
        x = features[sample * width : (sample + 1) * width]
        square = 0.0
        for j in range(width):
            off = x[j] - row[j]
            row[j] += off * share
            square += off * off
        traces[label] += square * (1.0 - share)


@kernel(
    void(reads(f32), reads(i64), writes(i64), writes(f64), writes(f64), writes(f64)),
    void(reads(f64), reads(i64), writes(i64), writes(f64), writes(f64), writes(f64)),
    any_order=True,
)
def absorb_rows(features: F64, labels: F64, counts: F64, means: F64, traces: F64, rows: F64) -> None:
    """As `absorb`; fills `rows`, one a sample, so that the scatter of a class grows by the sum of their squares."""
    width = means.size // counts.size
    for sample in range(labels.size):
        label = labels[sample]
        counts[label] += 1
        share = 1.0 / counts[label]
        scale = (1.0 - share) ** 0.5
        start = label * width
        square = 0.0
        for j in range(width):
            off = features[sample * width + j] - means[start + j]
            means[start + j] += off * share
            rows[sample * width + j] = off * scale
            square += off * off
        traces[label] += square * (1.0 - share)
