//! LOG SENSE: the list of pages and an informational one (SPC-4 §7.3).

const SUPPORTED_PAGES: u8 = 0x00;
const INFORMATIONAL_EXCEPTIONS: u8 = 0x2f;
const ALL_SUBPAGES: u8 = 0xff;

/// A log page; `None` if there is none.
pub fn log_page(page: u8, subpage: u8) -> Option<Vec<u8>> {
    match (page, subpage) {
        (SUPPORTED_PAGES, 0) => Some(vec![page, 0, 0, 2, SUPPORTED_PAGES, INFORMATIONAL_EXCEPTIONS]),
        (SUPPORTED_PAGES, ALL_SUBPAGES) => {
            Some(vec![0x40, subpage, 0, 4, SUPPORTED_PAGES, 0, INFORMATIONAL_EXCEPTIONS, 0])
        }
        // One parameter: nothing to report, no temperature.
        (INFORMATIONAL_EXCEPTIONS, 0) => Some(vec![page, 0, 0, 8, 0, 0, 0x03, 4, 0, 0, 0xff, 0]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listed_page_exists_and_tells_its_length() {
        for page in &log_page(0, 0).expect("the list exists")[4..] {
            let data = log_page(*page, 0).expect("a listed page exists");
            assert_eq!(usize::from(data[3]), data.len() - 4);
        }
        assert_eq!(log_page(0x15, 0), None);
    }
}
