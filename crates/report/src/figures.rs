//! The table, and the figures above the plot.

use maud::{Markup, html};

use crate::document::{Cell, Document, Figure};

/// A cell as it is written.
fn cell(cell: &Cell, unit: &str) -> String {
    match cell {
        Cell::Nothing => "–".to_owned(),
        Cell::Word(word) => word.clone(),
        Cell::Number(value) if !value.is_finite() => "–".to_owned(),
        Cell::Number(value) if unit.is_empty() => format!("{value:.0}"),
        Cell::Number(value) if value.abs() >= 1000.0 => format!("{value:.0}"),
        Cell::Number(value) => format!("{value:.1}"),
    }
}

fn number(figure: &Figure, column: usize) -> Option<f64> {
    match figure.cells.get(column)? {
        Cell::Number(value) if value.is_finite() => Some(*value),
        _ => None,
    }
}

/// The first column divided by the second.
pub(crate) fn ratio(figure: &Figure) -> Option<f64> {
    let (ours, theirs) = (number(figure, 0)?, number(figure, 1)?);
    (figure.comparable && theirs > 0.0).then(|| ours / theirs)
}

/// The figures that are shown large.
pub(crate) fn headlines(document: &Document) -> Markup {
    let shown: Vec<&Figure> = document.figures.iter().filter(|f| f.headline).collect();
    html! {
        @if !shown.is_empty() {
            section.tiles {
                @for figure in shown { (tile(figure, &document.columns)) }
            }
        }
    }
}

fn tile(figure: &Figure, columns: &[String]) -> Markup {
    let most = (0..figure.cells.len())
        .filter_map(|column| number(figure, column))
        .fold(0.0, f64::max);
    html! {
        div.tile {
            div.tile-name { (figure.name) }
            @if let Some(first) = figure.cells.first() {
                div.tile-value { (cell(first, &figure.unit)) @if !figure.unit.is_empty() { span.unit { " " (figure.unit) } } }
            }
            @if figure.cells.len() > 1 {
                @for (column, value) in figure.cells.iter().enumerate() {
                    @let share = number(figure, column).map_or(0.0, |v| if most > 0.0 { v / most * 100.0 } else { 0.0 });
                    div.compare {
                        span.who { (columns.get(column).map_or("", String::as_str)) }
                        span.rail { span class=(if column == 0 { "fill ours" } else { "fill theirs" }) style=(format!("width:{share:.1}%")) {} }
                        span.what { (cell(value, &figure.unit)) }
                    }
                }
                @if let Some(ratio) = ratio(figure) { div.ratio { (times(ratio, columns.get(1).map_or("", String::as_str))) } }
            }
        }
    }
}

/// A ratio in words, to what `other` has.
fn times(ratio: f64, other: &str) -> String {
    if ratio <= 0.0 {
        "none at all".to_owned()
    } else if ratio < 0.67 {
        format!("{:.1} times less than {other}", 1.0 / ratio)
    } else if ratio > 1.5 {
        format!("{ratio:.1} times more than {other}")
    } else {
        format!("about {other}'s ({ratio:.2} of it)")
    }
}

/// The table of all figures.
pub(crate) fn table(document: &Document) -> Markup {
    let compared = document.columns.len() == 2 && document.figures.iter().any(|f| f.comparable);
    html! {
        @if !document.figures.is_empty() {
            table.figures {
                thead { tr {
                    th { "figure" }
                    @for name in &document.columns { th.n { (name) } }
                    @if compared { th.n { "ratio" } }
                } }
                tbody {
                    @for figure in &document.figures {
                        tr {
                            td { (figure.name) @if !figure.unit.is_empty() { span.unit { " (" (figure.unit) ")" } } }
                            @for value in &figure.cells { td.n { (cell(value, &figure.unit)) } }
                            @if compared { td.n { @if let Some(ratio) = ratio(figure) { (format!("{ratio:.2}")) } } }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(ours: f64, theirs: f64) -> Figure {
        Figure {
            name: "gap".into(),
            unit: "ms".into(),
            cells: vec![Cell::Number(ours), Cell::Number(theirs)],
            headline: true,
            comparable: true,
        }
    }

    #[test]
    fn a_ratio_is_ours_to_theirs() {
        assert_eq!(ratio(&figure(10.0, 40.0)), Some(0.25));
        assert_eq!(ratio(&figure(10.0, 0.0)), None);
        assert_eq!(ratio(&figure(f64::NAN, 1.0)), None);
        assert_eq!(times(0.25, "x"), "4.0 times less than x");
        assert_eq!(times(1.05, "x"), "about x's (1.05 of it)");
    }
}
