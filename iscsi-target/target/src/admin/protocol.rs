//! What an administrator may ask and what is answered: lines of JSON, with the version of this vocabulary in each.
//!
//! ```text
//! → {"version":1,"request":{"fence":{"initiator":"iqn.…","timeout_seconds":60}}}
//! ← {"version":1,"answer":{"waiting":{"under_way":3}}}        any number of times
//! ← {"version":1,"answer":{"done":{…}}}   or {"failed":{"what":"…"}}   or {"refused":{"what":"…"}}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the vocabulary that this program speaks.
const VERSION: u32 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    version: u32,
    request: Value,
}

#[derive(Serialize)]
struct Answered<'a> {
    version: u32,
    answer: &'a Answer,
}

/// A request.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    Status,
    Sessions,
    Reservations,
    /// Shut an initiator out, and wait until nothing of it is under way, at most this long.
    Fence {
        initiator: String,
        timeout_seconds: Option<u64>,
    },
    Unfence {
        initiator: String,
    },
    /// Give a unit this size in bytes, or that which its file or device has by now.
    Grow {
        target: String,
        lun: u16,
        size: Option<u64>,
    },
}

/// An answer; all but `Waiting` are the last.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Still at it: so many requests of the initiator are with the devices.
    Waiting {
        under_way: u64,
    },
    Done(Value),
    /// It could not be done.
    Failed {
        what: String,
    },
    /// The request makes no sense.
    Refused {
        what: String,
    },
}

/// Reads a line.
pub fn parse(line: &str) -> Result<Request, String> {
    let asked: Asked = serde_json::from_str(line).map_err(|error| format!("not a request: {error}"))?;
    if asked.version != VERSION {
        return Err(format!(
            "the request has version {}, this corral-target speaks version {VERSION}; use programs of one release",
            asked.version
        ));
    }
    serde_json::from_value(asked.request).map_err(|error| format!("not a request: {error}"))
}

/// As a line.
pub fn encode(answer: &Answer) -> String {
    let answered = Answered { version: VERSION, answer };
    serde_json::to_string(&answered).expect("invariant: strings and numbers have a JSON form") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_nonsense_is_refused() {
        assert_eq!(parse(r#"{"version":1,"request":"status"}"#), Ok(Request::Status));
        let grow = parse(r#"{"version":1,"request":{"grow":{"target":"iqn.a:b","lun":1,"size":512}}}"#);
        assert_eq!(grow, Ok(Request::Grow { target: "iqn.a:b".to_owned(), lun: 1, size: Some(512) }));
        for wrong in [
            "",
            "status",
            r#"{"version":1}"#,
            r#"{"version":1,"request":"shutdown"}"#,
            r#"{"version":1,"request":{"fence":{}}}"#,
            r#"{"version":1,"request":{"unfence":{"initiator":"a","more":1}}}"#,
            r#"{"version":1,"request":{"grow":{"target":"a","lun":-1}}}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong} was taken");
        }
        let newer = parse(r#"{"version":2,"request":"status"}"#);
        assert!(newer.is_err_and(|said| said.contains("version 2")));
    }
}
