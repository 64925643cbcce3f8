//! GitLab: a secret token, sent as it is in `X-Gitlab-Token`; or a signing token (`whsec_…`), with
//! which it signs as Standard Webhooks has it (`webhook-id`, `webhook-timestamp`,
//! `webhook-signature`). <https://docs.gitlab.com/user/project/integrations/webhooks/>,
//! <https://gitlab.com/gitlab-org/gitlab/-/merge_requests/230944> and
//! <https://gitlab.com/gitlab-org/gitlab/-/merge_requests/231325> for signing.
//!
//! A secret that begins with `whsec_` is a signing token and is never compared with a header. A
//! hook may have both, and sends both; a source that knows both takes either, except that a
//! signature that is there must be right. To require a signature, leave the secret token out.
//!
//! A delivery is identified by `Idempotency-Key`, the only id that is the same when GitLab or a
//! user sends it again (<https://gitlab.com/gitlab-org/gitlab/-/merge_requests/160952>, GitLab
//! 17.4); a signed `webhook-id` is the same and goes first. Neither of the others will do:
//! `X-Gitlab-Webhook-UUID` is new in every request, and `X-Gitlab-Event-UUID` is shared by hooks
//! that set off one another and by events that one request caused
//! (`lib/gitlab/web_hooks/recursion_detection/uuid.rb`). Deliveries of an older GitLab have no id.

use hyper::HeaderMap;

use super::compare::TokenFingerprints;
use super::secrets::{self, VerifierError};
use super::standard::StandardProof;
use super::timestamp::Freshness;
use super::{NotVerified, Verified, headers, standard};
use crate::signing::sign::WHSEC;

pub(super) struct GitlabKeys {
    tokens: TokenFingerprints,
    signing: standard::StandardKeys,
}

impl GitlabKeys {
    pub(super) fn parse(secrets: &[String]) -> Result<Self, VerifierError> {
        let signs = |secret: &&String| secret.starts_with(WHSEC);
        let mut signing = standard::StandardKeys::default();
        secrets::each(secrets, |secret| {
            if secret.starts_with(WHSEC) { signing.add(secret) } else { Ok(()) }
        })?;
        Ok(Self { tokens: TokenFingerprints::new(secrets.iter().filter(|it| !signs(it))), signing })
    }
}

pub(super) fn verify(
    keys: &GitlabKeys,
    headers: &HeaderMap,
    body: &[u8],
    window: Freshness,
) -> Result<Verified, NotVerified> {
    let (proof, verified) = read(keys, headers, window)?;
    if let Some(proof) = proof {
        proof.check(&keys.signing, body)?;
    }
    Ok(verified)
}

/// The proof that is left to be compared with the body, unless the right token has been shown; and
/// what follows if it is right.
pub(super) fn read<'h>(
    keys: &GitlabKeys,
    headers: &'h HeaderMap,
    window: Freshness,
) -> Result<(Option<StandardProof<'h>>, Verified), NotVerified> {
    let signed = standard::is_signed(headers) && !keys.signing.is_empty();
    let (proof, id) = if signed || keys.tokens.is_empty() {
        let proof = standard::read(headers, window)?;
        let id = headers::usable(proof.id);
        (Some(proof), id)
    } else {
        keys.tokens.check(headers::required(headers, "X-Gitlab-Token")?)?;
        (None, headers::name(headers, "Idempotency-Key")?)
    };
    Ok((proof, Verified { id, event_type: headers::name(headers, "X-Gitlab-Event")? }))
}
