//! OAuth 2 for Skylark's own API: clients, families of refresh tokens, and the server's decisions.

mod client;
mod family;
mod server;

pub use client::{Client, ClientFault, ClientSecret, ClientStore, SecretHash};
pub use family::{FAMILY_LIFE, Family, FamilyStore, GRACE, Presented, RefreshSeal, RefreshToken, Retired};
pub use server::{AUTH_LIMIT, AuthorizationServer, Credentials, Fresh, Introspection, OauthFault, Tokens, Visit};
