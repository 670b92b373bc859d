//! iSCSI URLs, in libiscsi's form, and the secrets they may hold.
//!
//! Only parsing. A secret is never printed: `Display` and `Debug` leave it out, and [`Secret`] has to be asked for its
//! text by name.

use std::fmt;

use crate::dev::DevNameError;

/// A logical unit behind iSCSI: `iscsi://[user%secret@]host[:port]/target-iqn/lun[?option=value&…]`. Options:
/// `header_digest` and `data_digest`, each `crc32c` or `none`; `target_user` and `target_password`, which the target
/// has to prove (mutual CHAP). An IPv6 address is written in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiUrl {
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
    /// The target's iSCSI name.
    pub target: String,
    /// 0 to 16383.
    pub lun: u16,
    /// For CHAP.
    pub user: Option<String>,
    /// For CHAP; only together with a user.
    pub secret: Option<Secret>,
    /// Who the target has to prove to be.
    pub target_user: Option<String>,
    /// By which secret; only together with `target_user`.
    pub target_secret: Option<Secret>,
    /// CRC32C over the headers is wanted.
    pub header_digest: bool,
    /// CRC32C over the data is wanted.
    pub data_digest: bool,
}

/// Where targets are asked for: `iscsi://[user%secret@]host[:port][/][?option=value&…]`, with [`IscsiUrl`]'s options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiPortal {
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
    pub login: IscsiLogin,
}

/// What a URL says about authentication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IscsiLogin {
    pub user: Option<String>,
    pub secret: Option<Secret>,
    pub target_user: Option<String>,
    pub target_secret: Option<Secret>,
}

impl IscsiUrl {
    /// The port of iSCSI targets (RFC 7143).
    pub const DEFAULT_PORT: u16 = 3260;

    /// Parses a URL.
    pub fn parse(text: &str) -> Result<IscsiUrl, DevNameError> {
        let Parts { login, rest, options } = Parts::of(text)?;
        let (authority, rest) = rest.split_once('/').ok_or(DevNameError::MissingTarget)?;
        let (target, lun) = rest.rsplit_once('/').ok_or(DevNameError::MissingLun)?;
        let (host, port) = parse_authority(authority)?;
        if !is_iscsi_name(target) {
            return Err(DevNameError::BadTarget { target: target.to_owned() });
        }
        let lun_number = lun.parse().ok().filter(|lun| *lun <= LUN_MAX);
        let lun = lun_number.ok_or_else(|| DevNameError::BadLun { lun: lun.to_owned() })?;
        let IscsiLogin { user, secret, target_user, target_secret } = login;
        let target = target.to_owned();
        let (header_digest, data_digest) = (options.header_digest, options.data_digest);
        Ok(IscsiUrl { host, port, target, lun, user, secret, target_user, target_secret, header_digest, data_digest })
    }

    /// Host and port as a connection needs them.
    pub fn portal(&self) -> String {
        portal(&self.host, self.port)
    }

    /// What it says about authentication.
    pub fn login(&self) -> IscsiLogin {
        IscsiLogin {
            user: self.user.clone(),
            secret: self.secret.clone(),
            target_user: self.target_user.clone(),
            target_secret: self.target_secret.clone(),
        }
    }

    /// Whether it holds anything that must not be shown.
    pub fn has_secret(&self) -> bool {
        self.secret.is_some() || self.target_secret.is_some()
    }

    /// The URL with everything but its secrets; it can be parsed again.
    pub fn without_secrets(&self) -> String {
        let user = self.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
        let mut text = format!("iscsi://{user}{}/{}/{}", self.portal(), self.target, self.lun);
        let digest = |wanted: bool, name: &str| wanted.then(|| format!("{name}=crc32c"));
        let options = [
            self.target_user.as_ref().map(|user| format!("target_user={user}")),
            digest(self.header_digest, "header_digest"),
            digest(self.data_digest, "data_digest"),
        ];
        for (index, option) in options.into_iter().flatten().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            text.push_str(&option);
        }
        text
    }
}

impl fmt::Display for IscsiUrl {
    /// Without users and secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iscsi://{}/{}/{}", self.portal(), self.target, self.lun)
    }
}

impl IscsiPortal {
    /// Parses a URL without target and unit; a whole one is taken for its portal.
    pub fn parse(text: &str) -> Result<IscsiPortal, DevNameError> {
        let Parts { login, rest, .. } = Parts::of(text)?;
        let (host, port) = parse_authority(rest.split('/').next().unwrap_or_default())?;
        Ok(IscsiPortal { host, port, login })
    }

    /// Host and port as a connection needs them.
    pub fn portal(&self) -> String {
        portal(&self.host, self.port)
    }
}

impl fmt::Display for IscsiPortal {
    /// Without users and secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iscsi://{}", self.portal())
    }
}

/// A secret that cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret in.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The secret itself; for computing a CHAP response, never for printing.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How the error texts show the form.
pub(crate) const FORM: &str = "iscsi://[user%secret@]host[:port]/target-iqn/lun";

/// Flat space addressing (SAM-5) ends here.
pub(crate) const LUN_MAX: u16 = 16383;

/// Options of a URL; a `?` in front of one of them ends the URL's path.
const OPTIONS: [&str; 4] = ["header_digest=", "data_digest=", "target_user=", "target_password="];

/// What both kinds of URL have.
struct Parts<'a> {
    login: IscsiLogin,
    /// Host, and what follows up to the options.
    rest: &'a str,
    options: Digests,
}

#[derive(Default)]
struct Digests {
    header_digest: bool,
    data_digest: bool,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, DevNameError> {
        let Some(rest) = text.strip_prefix("iscsi://") else {
            return Err(DevNameError::UnknownScheme { scheme: text.split(':').next().unwrap_or_default().to_owned() });
        };
        // Secrets may contain any of the separators. So the options are cut off first, where the first of them begins;
        // then the login, as neither a host nor an iSCSI name contains '@'.
        let begins_option = |at: &usize| OPTIONS.iter().any(|option| rest[at + 1..].starts_with(option));
        let options_at = rest.match_indices('?').map(|(at, _)| at).find(begins_option);
        let (rest, options) = options_at.map_or((rest, ""), |at| (&rest[..at], &rest[at + 1..]));
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (user, secret) = match login.map(|login| login.split_once('%').unwrap_or((login, ""))) {
            None => (None, None),
            Some(("", _)) => return Err(DevNameError::EmptyUser),
            Some((user, "")) => (Some(user.to_owned()), None),
            Some((user, secret)) => (Some(user.to_owned()), Some(Secret(secret.to_owned()))),
        };
        if let Some((_, option)) = rest.split_once('?').filter(|(_, option)| !option.is_empty()) {
            // Only its name: what follows may be a secret.
            let name = option.split(['=', '&']).next().unwrap_or_default();
            return Err(DevNameError::BadOption { option: name.to_owned() });
        }
        let mut login = IscsiLogin { user, secret, ..IscsiLogin::default() };
        let options = parse_options(options, &mut login)?;
        if login.target_secret.is_some() && login.target_user.is_none() {
            return Err(DevNameError::BadOption { option: "target_password without target_user".to_owned() });
        }
        Ok(Self { login, rest: rest.trim_end_matches('?'), options })
    }
}

fn parse_options(options: &str, login: &mut IscsiLogin) -> Result<Digests, DevNameError> {
    let mut digests = Digests::default();
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        // Only the name: the value may be a secret.
        let bad = || DevNameError::BadOption { option: name.to_owned() };
        let digest = || match value {
            "crc32c" => Ok(true),
            "none" => Ok(false),
            _ => Err(bad()),
        };
        match name {
            "header_digest" => digests.header_digest = digest()?,
            "data_digest" => digests.data_digest = digest()?,
            "target_user" if !value.is_empty() => login.target_user = Some(value.to_owned()),
            "target_password" if !value.is_empty() => login.target_secret = Some(Secret(value.to_owned())),
            _ => return Err(bad()),
        }
    }
    Ok(digests)
}

fn portal(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn parse_authority(authority: &str) -> Result<(String, u16), DevNameError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| DevNameError::BadHost { host: authority.to_owned() })?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(DevNameError::BadHost { host: authority.to_owned() }),
        }
    } else {
        match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(DevNameError::BadHost { host: authority.to_owned() });
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return Err(DevNameError::EmptyHost);
    }
    let port = match port {
        None => IscsiUrl::DEFAULT_PORT,
        Some(port) => match port.parse() {
            Ok(number) if number != 0 => number,
            Ok(_) | Err(_) => return Err(DevNameError::BadPort { port: port.to_owned() }),
        },
    };
    Ok((host.to_owned(), port))
}

/// RFC 7143 section 4.2.7: type, and at most 223 bytes.
fn is_iscsi_name(name: &str) -> bool {
    name.len() <= 223
        && ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind) && name.len() > kind.len())
        && name.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> IscsiUrl {
        IscsiUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_full_url_is_taken_apart() {
        let url = url("iscsi://joe%se/c%r@et@10.0.0.1:3261/iqn.2026-11.org.corral:disk0/7?header_digest=crc32c");
        assert_eq!((url.host.as_str(), url.port, url.lun), ("10.0.0.1", 3261, 7));
        assert_eq!(url.target, "iqn.2026-11.org.corral:disk0");
        assert_eq!(url.user.as_deref(), Some("joe"));
        assert_eq!(url.secret.as_ref().map(Secret::reveal), Some("se/c%r@et"));
        assert!(url.header_digest && !url.data_digest);
    }

    #[test]
    fn port_defaults_and_ipv6_stands_in_brackets() {
        assert_eq!(url("iscsi://store/iqn.2026-11.x:y/0").portal(), "store:3260");
        assert_eq!(url("iscsi://[::1]:99/iqn.2026-11.x:y/0").portal(), "[::1]:99");
        assert_eq!(url("iscsi://[fe80::2]/iqn.2026-11.x:y/0").portal(), "[fe80::2]:3260");
    }

    #[test]
    fn what_the_target_has_to_prove_stands_in_the_options() {
        let text = "iscsi://joe%a?b@h/iqn.2026-11.x:y/0?target_user=gate&target_password=s@/%?t&header_digest=crc32c";
        let url = url(text);
        assert_eq!((url.host.as_str(), url.target.as_str()), ("h", "iqn.2026-11.x:y"));
        assert_eq!(url.secret.as_ref().map(Secret::reveal), Some("a?b"));
        assert_eq!(url.target_user.as_deref(), Some("gate"));
        assert_eq!(url.target_secret.as_ref().map(Secret::reveal), Some("s@/%?t"));
        let shown = url.without_secrets();
        assert_eq!(shown, "iscsi://joe@h:3260/iqn.2026-11.x:y/0?target_user=gate&header_digest=crc32c");
        let again = IscsiUrl::parse(&shown).expect("it can be parsed again");
        assert_eq!(again, IscsiUrl { secret: None, target_secret: None, ..url });
        assert!(!again.has_secret());
        for bad in ["target_password=hush", "x=y&target_password=hush", "target_user=&target_password=hush", "a&hush"] {
            let error = IscsiUrl::parse(&format!("iscsi://h/iqn.2026-11.x:y/0?{bad}")).expect_err("it is no URL");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_portal_needs_no_target() {
        let portal = IscsiPortal::parse("iscsi://joe%x@[::1]:99").expect("it is a portal");
        assert_eq!((portal.portal().as_str(), portal.login.user.as_deref()), ("[::1]:99", Some("joe")));
        assert_eq!(IscsiPortal::parse("iscsi://h/").expect("it is a portal").to_string(), "iscsi://h:3260");
        assert_eq!(IscsiPortal::parse("iscsi://h/iqn.2026-11.x:y/0").expect("it has a portal").host, "h");
        assert!(IscsiPortal::parse("iscsi://").is_err());
    }
}
