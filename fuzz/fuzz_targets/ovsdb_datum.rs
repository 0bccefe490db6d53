//! A column's type on the first line, a value on the others: what is read is written so that it is read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ovsdb_client::datum_from_json;
use ovsdb_client::schema::ColumnType;

fuzz_target!(|input: &str| {
    let Some((column_type, value)) = input.split_once('\n') else { return };
    let Ok(column_type) = serde_json::from_str::<ColumnType>(column_type) else { return };
    let Ok(datum) = datum_from_json(value, &column_type) else { return };
    let written = datum.to_json().to_string();
    let again = datum_from_json(&written, &column_type).expect("what was written can be read");
    assert_eq!(datum, again, "{written}");
});
