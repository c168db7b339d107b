//! PROP-06: any text is refused or is a reference that, printed in full or as Docker prints it, reads as
//! the same.

use rgraph_ir::Reference;

/// Checks one text.
pub fn holds(text: &str) {
    let Ok(r) = text.parse::<Reference>() else { return };
    for shown in [r.to_string(), r.familiar()] {
        assert_eq!(shown.parse::<Reference>().as_ref(), Ok(&r), "{text:?} shown as {shown:?}");
    }
    assert!(!r.repository.contains("..") && !r.name().contains(char::is_whitespace), "{text:?}");
}
