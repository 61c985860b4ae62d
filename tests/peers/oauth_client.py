"""A client that knows an issuer and its own credentials, and lives off what the issuer's metadata says. It knows nothing of Skylark."""

import json
import sys

import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from joserfc import jwt
from joserfc.jwk import KeySet

issuer, client_id, client_secret, scope = sys.argv[1:]
metadata = AuthorizationServerMetadata(requests.get(f"{issuer}/.well-known/oauth-authorization-server", timeout=10).json())
for part in ("issuer", "token_endpoint", "jwks_uri", "scopes_supported", "grant_types_supported", "introspection_endpoint"):
    getattr(metadata, f"validate_{part}")()
assert metadata["issuer"] == issuer

shown = []
for method in metadata["token_endpoint_auth_methods_supported"]:
    if method == "none":
        continue
    with OAuth2Session(
        client_id, client_secret, scope=scope, token_endpoint=metadata["token_endpoint"], token_endpoint_auth_method=method
    ) as session:
        first = session.fetch_token(grant_type="client_credentials")
        second = session.refresh_token(metadata["token_endpoint"], refresh_token=first["refresh_token"])
        assert second["refresh_token"] != first["refresh_token"]
        keys = KeySet.import_key_set(requests.get(metadata["jwks_uri"], timeout=10).json())
        token = jwt.decode(second["access_token"], keys, algorithms=["RS256"])
        assert token.header["typ"] == "at+jwt"
        claims = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": issuer}, sub={"essential": True}, exp={"essential": True}, iat={"essential": True}
        )
        claims.validate(token.claims)
        active = session.introspect_token(metadata["introspection_endpoint"], token=second["access_token"]).json()
        session.revoke_token(metadata["revocation_endpoint"], token=second["refresh_token"]).raise_for_status()
        ended = session.introspect_token(metadata["introspection_endpoint"], token=second["refresh_token"]).json()
        shown.append(
            {"method": method, "sub": token.claims["sub"], "scope": second["scope"], "active": active["active"], "ended": ended["active"]}
        )
print(json.dumps(shown))
