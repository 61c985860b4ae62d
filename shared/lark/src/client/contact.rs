//! The directory: people by id.

use std::fmt;
use std::time::Instant;

use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;

use super::{ApiError, Call, Client, lenient};

/// How many people one call may name.
const MAX_BATCH: usize = 50;

/// A person as the app's contact scopes show them.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DirectoryUser {
    pub open_id: String,
    pub union_id: Option<String>,
    pub user_id: Option<String>,
    pub name: Option<String>,
    pub email: Option<String>,
    pub mobile: Option<String>,
    pub status: UserStatus,
}

/// Whether the person is still there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UserStatus {
    pub is_frozen: bool,
    pub is_resigned: bool,
}

impl fmt::Debug for DirectoryUser {
    /// Without what identifies a person outside the app.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DirectoryUser")
            .field("open_id", &self.open_id)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// People by open id, at most 50. Whom the app may not see is left out.
    ///
    /// # Errors
    /// See [`Client::call`]; [`ApiError::Input`] for none or too many.
    pub async fn users(
        &self,
        tenant_token: &SecretString,
        open_ids: &[&str],
        deadline: Instant,
    ) -> Result<Vec<DirectoryUser>, ApiError> {
        if open_ids.is_empty() || open_ids.len() > MAX_BATCH {
            return Err(ApiError::Input { field: "user_ids", problem: "must name 1 to 50 people" });
        }
        let mut query = vec![("user_id_type", "open_id")];
        query.extend(open_ids.iter().map(|open_id| ("user_ids", *open_id)));
        let call = Call::new(Method::GET, "/open-apis/contact/v3/users/batch", deadline);
        let answer = self.call(call.token(tenant_token).query(&query)).await?;
        Ok(lenient(&answer, "items"))
    }
}
