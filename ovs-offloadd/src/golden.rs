//! Files of the repository that are written from the code, compared with what the code writes now.

use std::path::Path;

/// Fails if a file of the repository differs from `expected`; `UPDATE_GOLDEN=1` writes it instead.
pub(crate) fn compare(path_in_repository: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path_in_repository);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, expected).unwrap();
    }
    let found =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path_in_repository}: {error}"));
    assert!(
        found == expected,
        "{path_in_repository} differs from what the code writes; run the test again with UPDATE_GOLDEN=1"
    );
}
