//! What a secrets file may look like, and which line is taken.

use std::os::unix::fs::PermissionsExt;

use super::*;

const TARGET: &str = "iqn.2026-11.org.corral:disk0";

/// A file of its own in the temporary folder, gone with the value.
struct Kept(PathBuf);

impl Kept {
    fn new(name: &str, text: &str, mode: u32) -> Self {
        let file = std::env::temp_dir().join(format!("corral-secrets-{}-{name}", std::process::id()));
        std::fs::write(&file, text).expect("the temporary folder is writable");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        Self(file)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn url(text: &str) -> IscsiUrl {
    IscsiUrl::parse(&format!("iscsi://{text}")).expect("it is a URL")
}

fn find(url: &IscsiUrl, file: &Kept) -> Result<Option<Arc<ChapIdentity>>, SecretsError> {
    identity(&url.login(), Some(&url.target), Some(&file.0))
}

#[test]
fn a_url_that_says_everything_needs_no_file() {
    let missing = Kept(PathBuf::from("/nonexistent/secrets"));
    let found = find(&url(&format!("joe%x@h/{TARGET}/0")), &missing).expect("it is complete").expect("there is one");
    assert_eq!((found.own_name(), found.is_mutual()), ("joe", false));
    let mutual = url(&format!("joe%x@h/{TARGET}/0?target_user=gate&target_password=y"));
    assert!(find(&mutual, &missing).expect("it is complete").expect("there is one").is_mutual());
    assert!(matches!(find(&url(&format!("h/{TARGET}/0")), &missing), Err(SecretsError::Read { .. })));
}

#[test]
fn the_first_line_that_fits_holds() {
    let text = format!(
        "# mine\n{TARGET} login joe \"a secret\"\n\n{TARGET} target gate third\n* login ann other\ndiscovery login eve fifth\n"
    );
    let file = Kept::new("fits", &text, 0o600);
    let found = find(&url(&format!("h/{TARGET}/0")), &file).expect("good").expect("there is one");
    assert_eq!((found.own_name(), found.is_mutual()), ("joe", true));
    let found = find(&url("ann@h/iqn.2026-11.other:x/0"), &file).expect("good").expect("there is one");
    assert_eq!((found.own_name(), found.is_mutual()), ("ann", false));
    let error = find(&url(&format!("eve@h/{TARGET}/0")), &file).expect_err("only for discovery");
    assert!(error.to_string().contains("'eve'") && !error.to_string().contains("fifth"));
    let found = identity(&IscsiLogin::default(), None, Some(&file.0)).expect("good").expect("there is one");
    assert_eq!(found.own_name(), "eve");
}

#[test]
fn a_file_that_others_can_read_is_refused_with_what_to_do() {
    for mode in [0o644, 0o640, 0o602] {
        let file = Kept::new(&format!("mode-{mode:o}"), "* login joe hidden\n", mode);
        let error = find(&url(&format!("h/{TARGET}/0")), &file).expect_err("it is exposed").to_string();
        assert!(error.contains("chmod 600") && error.contains(&format!("{mode:04o}")), "{error}");
    }
}

#[test]
fn a_bad_line_is_named_by_its_number_and_not_by_its_text() {
    for bad in ["* login joe", "* logon joe hidden", "* login joe \"hidden", "a b c d e"] {
        let file = Kept::new("bad", &format!("# first\n{bad}\n"), 0o600);
        let error = find(&url(&format!("h/{TARGET}/0")), &file).expect_err("it is bad").to_string();
        assert!(error.contains("line 2") && !error.contains("hidden"), "{error}");
    }
}

#[test]
fn what_is_hidden_from_a_url_is_found_again() {
    let whole = url(&format!("joe%a \"b\\c@h/{TARGET}/0?target_user=gate&target_password=d e"));
    let lines = parse(&lines_of(&whole), Path::new("test")).expect("our own lines");
    let fields: Vec<_> = lines.iter().map(|line| (line.user.as_str(), line.secret.as_str())).collect();
    assert_eq!(fields, [("joe", "a \"b\\c"), ("gate", "d e")]);
    assert!(lines.iter().all(|line| line.is_for(Some(TARGET)) && !line.is_for(None)));
}
