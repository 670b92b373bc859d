//! Logging in with CHAP, one way and mutual, with digests, in normal and discovery sessions.

use block_core::{BlockDevice, ByteLen, ByteOffset, Durability, IscsiUrl, Secret};
use iscsi_target_initiator::{ConnectError, Initiator, Options};
use iscsi_target_proto::initiator::CloseReason;
use iscsi_target_proto::pdu::LoginStatus;

use crate::server::{Kind, Server, Setup, TARGET};
use crate::{KINDS, block, options, runtime};

const USERS: Setup = Setup {
    incoming: Some(("alice", "incoming-secret-1")),
    outgoing: Some(("gate", "outgoing-secret-2")),
    discovery: Some(("visitor", "discovery-secret-3")),
    is_thin: false,
};

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.to_owned()))
}

fn alice(server: &Server) -> IscsiUrl {
    IscsiUrl { user: Some("alice".to_owned()), secret: secret("incoming-secret-1"), ..server.url() }
}

fn mutual(server: &Server, target_secret: &str) -> IscsiUrl {
    IscsiUrl { target_user: Some("gate".to_owned()), target_secret: secret(target_secret), ..alice(server) }
}

async fn refusal(url: IscsiUrl, options: Options) -> ConnectError {
    Initiator::connect(&url, options).await.map(drop).expect_err("the login is refused")
}

#[test]
fn with_the_right_secrets_data_goes_both_ways_with_and_without_digests() {
    for kind in KINDS {
        let Some(server) = Server::start_with(kind, &USERS) else { continue };
        runtime().block_on(async {
            for (url, digests) in [
                (alice(&server), false),
                (alice(&server), true),
                (mutual(&server, "outgoing-secret-2"), false),
                (mutual(&server, "outgoing-secret-2"), true),
            ] {
                let options = Options { header_digest: digests, data_digest: digests, ..options() };
                let disk = Initiator::connect(&url, options).await.unwrap_or_else(|e| panic!("{kind:?} {url:?}: {e}"));
                disk.write(ByteOffset(4096), vec![block(7)], Durability::Cached).await.expect("the write works");
                assert!(disk.read(ByteOffset(4096), ByteLen(4096)).await.expect("the read works") == block(7));
                disk.flush().await.expect("the flush works");
                disk.close().await;
            }
        });
        assert!(server.disk()[4096..8192] == block(7));
    }
}

#[test]
fn a_wrong_secret_a_stranger_and_nobody_get_the_same_refusal() {
    for kind in KINDS {
        let Some(server) = Server::start_with(kind, &USERS) else { continue };
        runtime().block_on(async {
            for url in [
                IscsiUrl { secret: secret("another-secret-9"), ..alice(&server) },
                IscsiUrl { user: Some("mallory".to_owned()), ..alice(&server) },
                server.url(),
            ] {
                let error = refusal(url.clone(), options()).await;
                assert!(
                    matches!(
                        &error,
                        ConnectError::Session { reason: CloseReason::LoginRefused { status, .. }, .. }
                            if *status == LoginStatus::AUTHENTICATION_FAILURE
                    ),
                    "{kind:?} {url:?}: {error}"
                );
                assert!(!format!("{error} {error:?}").contains("secret-9"));
            }
        });
    }
}

#[test]
fn a_target_that_cannot_prove_itself_is_not_talked_to() {
    for kind in KINDS {
        let Some(server) = Server::start_with(kind, &USERS) else { continue };
        runtime().block_on(async {
            let error = refusal(mutual(&server, "what-it-is-not"), options()).await;
            assert!(
                matches!(&error, ConnectError::Session { reason: CloseReason::TargetUnproven { .. }, .. }),
                "{kind:?}: {error}"
            );
        });
    }
}

#[test]
fn a_secrets_file_is_as_good_as_a_url() {
    use std::os::unix::fs::PermissionsExt;
    let file = std::env::temp_dir().join(format!("corral-login-secrets-{}", std::process::id()));
    let text = format!("{TARGET} login alice incoming-secret-1\n{TARGET} target gate outgoing-secret-2\n");
    std::fs::write(&file, text).expect("the temporary folder is writable");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    let with_file = || Options { secrets_file: Some(file.clone()), ..options() };
    for kind in KINDS {
        let Some(server) = Server::start_with(kind, &USERS) else { continue };
        runtime().block_on(async {
            let disk = Initiator::connect(&server.url(), with_file()).await.expect("the file has it all");
            disk.close().await;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
            let error = refusal(server.url(), with_file()).await.to_string();
            assert!(error.contains("chmod 600") && !error.contains("secret-1"), "{error}");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        });
    }
    std::fs::remove_file(&file).expect("it is ours");
}

#[test]
fn discovery_asks_for_its_own_user() {
    for kind in KINDS {
        let Some(server) = Server::start_with(kind, &USERS) else { continue };
        runtime().block_on(async {
            let mut portal = server.portal();
            (portal.login.user, portal.login.secret) = (Some("visitor".to_owned()), secret("discovery-secret-3"));
            let found = Initiator::discover(&portal, &options()).await.unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            assert!(found.iter().any(|target| target.name == TARGET && !target.addresses.is_empty()), "{found:?}");
            portal.login.secret = secret("incoming-secret-1");
            let error = Initiator::discover(&portal, &options()).await.expect_err("it is another's secret");
            assert!(error.to_string().contains("authentication failure"), "{kind:?}: {error}");
        });
    }
}

#[test]
fn an_open_portal_tells_its_targets() {
    for kind in [Kind::Tgt, Kind::Corral] {
        let Some(server) = Server::start(kind) else { continue };
        let found = runtime().block_on(Initiator::discover(&server.portal(), &options())).expect("it tells");
        assert_eq!(found.iter().filter(|target| target.name == TARGET).count(), 1);
    }
}
