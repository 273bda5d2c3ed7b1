//! Tables as the cinder client prints them, and JSON instead where a program reads.

use comfy_table::presets::ASCII_FULL_CONDENSED;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use onggi_block_cinder::schema::representation;
use serde_json::{Map, Value};

/// Borders of `+`, `-` and `|`, a line under the header, none between rows.
const ASCII_BOX: TableStyle =
    ASCII_FULL_CONDENSED.header_separator(LineStyle::new('+', '-', '+', '+'));

/// What a command prints.
#[derive(Debug, Clone)]
pub(crate) enum Output {
    /// Nothing.
    Nothing,
    /// `Property | Value`, sorted.
    Properties(Map<String, Value>),
    /// The same with metadata as lines of `key : value`.
    Formatted(Map<String, Value>),
    /// Rows under named columns.
    Rows {
        columns: Vec<Column>,
        rows: Vec<Value>,
    },
}

/// A column: its title, and where its value is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) value: fn(&Value) -> String,
}

/// A column of a field that is shown as it is.
macro_rules! column {
    ($title:literal, $($key:literal).+) => {
        $crate::table::Column { title: $title, value: |row| $crate::table::cell(&row$([$key])+) }
    };
}
pub(crate) use column;

/// A value in a list: absent is `-`.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            representation(value)
        }
    }
}

/// A value in a property table, as Python prints it.
fn property(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| representation(value), str::to_owned)
}

/// The same, but mappings that people wrote are one `key : value` a line.
fn formatted(key: &str, value: &Value) -> String {
    match value {
        Value::Object(map) if key == "metadata" => map
            .iter()
            .map(|(key, value)| format!("{key} : {}", cell(value)))
            .collect::<Vec<_>>()
            .join("\n"),
        _ => property(value),
    }
}

/// What would move the cursor or colour the terminal is shown as `?`: names come from other people.
fn plain(text: String) -> String {
    let harmless = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
    text.chars().map(harmless).collect()
}

fn render(header: Vec<&str>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(ASCII_BOX)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(plain).collect::<Vec<_>>());
    }
    table.to_string()
}

impl Output {
    /// What goes to standard output.
    pub(crate) fn text(&self, as_json: bool) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Properties(map) | Self::Formatted(map) if as_json => {
                Some(json_text(&Value::Object(map.clone())))
            }
            Self::Properties(map) => {
                let rows = map
                    .iter()
                    .map(|(key, value)| vec![key.clone(), property(value)]);
                Some(render(vec!["Property", "Value"], rows))
            }
            Self::Formatted(map) => {
                let rows = map
                    .iter()
                    .map(|(key, value)| vec![key.clone(), formatted(key, value)]);
                Some(render(vec!["Property", "Value"], rows))
            }
            Self::Rows { rows, .. } if as_json => Some(json_text(&Value::Array(rows.clone()))),
            Self::Rows { columns, rows } => {
                let header = columns.iter().map(|column| column.title).collect();
                let row = |row: &Value| columns.iter().map(|column| (column.value)(row)).collect();
                Some(render(header, rows.iter().map(row)))
            }
        }
    }
}

fn json_text(value: &Value) -> String {
    // A value of texts and numbers always prints.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_property_table_looks_like_the_cinder_clients() {
        let map = json!({"size": 1, "attachments": [], "metadata": {"a": "b", "c": "d"}, "description": null, "encrypted": false});
        let Value::Object(map) = map else {
            panic!("no map")
        };
        let expected = "\
+-------------+-------+
| Property    | Value |
+-------------+-------+
| attachments | []    |
| description | None  |
| encrypted   | False |
| metadata    | a : b |
|             | c : d |
| size        | 1     |
+-------------+-------+";
        assert_eq!(Output::Formatted(map).text(false).unwrap(), expected);
    }

    #[test]
    fn a_list_looks_like_the_cinder_clients_and_an_empty_one_too() {
        let columns = vec![column!("ID", "id"), column!("Name", "name")];
        let rows = vec![
            json!({"id": "x", "name": null}),
            json!({"id": "y", "name": "항아리"}),
        ];
        let output = Output::Rows {
            columns: columns.clone(),
            rows,
        };
        let expected = "\
+----+--------+
| ID | Name   |
+----+--------+
| x  | -      |
| y  | 항아리 |
+----+--------+";
        assert_eq!(output.text(false).unwrap(), expected);
        let empty = "+----+------+\n| ID | Name |\n+----+------+\n+----+------+";
        assert_eq!(
            Output::Rows {
                columns,
                rows: Vec::new()
            }
            .text(false)
            .unwrap(),
            empty
        );
    }

    #[test]
    fn names_cannot_colour_the_terminal() {
        let rows = vec![json!({"id": "\u{1b}[31mred\r"})];
        let text = Output::Rows {
            columns: vec![column!("ID", "id")],
            rows,
        }
        .text(false)
        .unwrap();
        assert!(text.contains("?[31mred?"), "{text}");
    }

    #[test]
    fn json_is_what_the_service_said() {
        let rows = vec![json!({"id": "x", "bootable": "false"})];
        let output = Output::Rows {
            columns: Vec::new(),
            rows: rows.clone(),
        };
        let back: Value = serde_json::from_str(&output.text(true).unwrap()).unwrap();
        assert_eq!(back, Value::Array(rows));
    }
}
