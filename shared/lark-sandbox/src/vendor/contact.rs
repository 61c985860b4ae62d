//! authen/v1/user_info and contact/v3: who people are, as far as the app may know.

use serde_json::{Value, json};

use super::{Failure, VendorCall, refuse, success};
use crate::model::{TENANT_KEY, User, UserStatus};
use crate::store::{StoreError, Tx};

const MAX_PER_LIST: usize = 50;

pub(super) fn user_info(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let caller = call.caller()?;
    let open_id = caller.open_id.as_deref().unwrap_or_default();
    let user = tx.get::<User>(open_id)?.ok_or_else(|| refuse(20_008, "The user does not exist."))?;
    match user.status {
        UserStatus::Active => {}
        UserStatus::Resigned => return Err(refuse(20_021, "The user has resigned.")),
        UserStatus::Frozen => return Err(refuse(20_022, "The user is frozen.")),
    }
    let avatar = |size: u32| format!("https://sf1-ttcdn-tos.pstatp.com/img/avatar/{open_id}~{size}x{size}.image");
    let mut data = json!({
        "name": user.name, "en_name": user.en_name,
        "avatar_url": avatar(72), "avatar_thumb": avatar(72), "avatar_middle": avatar(240), "avatar_big": avatar(640),
        "open_id": user.open_id, "union_id": user.union_id, "tenant_key": TENANT_KEY,
    });
    let gated = [
        ("contact:user.email:readonly", "email", &user.email),
        ("contact:user.email:readonly", "enterprise_email", &user.email),
        ("contact:user.employee_id:readonly", "user_id", &user.user_id),
        ("contact:user.phone:readonly", "mobile", &user.mobile),
        ("contact:user.employee_number:read", "employee_no", &user.employee_no),
    ];
    for (scope, field, value) in gated {
        if caller.scopes.iter().any(|one| one == scope)
            && let Some(data) = data.as_object_mut()
        {
            data.insert(field.to_owned(), value.clone().into());
        }
    }
    Ok(success(data))
}

pub(super) fn user(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let id_type = call.query("user_id_type").unwrap_or("open_id");
    let user = find(tx, id_type, call.param())?
        .ok_or_else(|| refuse(99_992_351, format!("not a valid {{{id_type}}} [{}]", call.param())))?;
    Ok(success(json!({ "user": profile(&user) })))
}

/// People by repeated `user_ids`; who is unknown is left out.
pub(super) fn batch(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let id_type = call.query("user_id_type").unwrap_or("open_id");
    let ids: Vec<&str> = call.queries("user_ids").collect();
    if ids.is_empty() || ids.len() > MAX_PER_LIST {
        return Err(refuse(40_001, format!("param error: 1 to {MAX_PER_LIST} user_ids")));
    }
    let mut items = Vec::new();
    for id in ids {
        items.extend(find(tx, id_type, id)?.as_ref().map(profile));
    }
    Ok(success(json!({ "items": items })))
}

pub(super) fn find_by_department(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let department_id =
        call.query("department_id").ok_or_else(|| refuse(40_001, "param error: department_id is missing"))?;
    let number = |name: &str, default: usize| call.query(name).map_or(Some(default), |value| value.parse().ok());
    let size = number("page_size", 10)
        .filter(|size| (1..=MAX_PER_LIST).contains(size))
        .ok_or_else(|| refuse(40_001, "param error: page_size must be 1 to 50"))?;
    let start = number("page_token", 0).ok_or_else(|| refuse(40_012, "page_token error"))?;
    let members: Vec<User> = tx
        .all::<User>()?
        .into_iter()
        .filter(|user| {
            user.status != UserStatus::Resigned && user.department_ids.iter().any(|one| one == department_id)
        })
        .collect();
    let items: Vec<Value> = members.iter().skip(start).take(size).map(profile).collect();
    let next = start + items.len();
    let mut data = json!({ "has_more": next < members.len(), "items": items });
    if next < members.len()
        && let Some(data) = data.as_object_mut()
    {
        data.insert("page_token".to_owned(), next.to_string().into());
    }
    Ok(success(data))
}

pub(super) fn batch_get_id(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let id_type = call.query("user_id_type").unwrap_or("open_id");
    let body = call.json()?;
    let with_resigned = body.get("include_resigned").and_then(Value::as_bool).unwrap_or(false);
    let users = tx.all::<User>()?;
    let mut rows = Vec::new();
    for (list, field) in [("emails", "email"), ("mobiles", "mobile")] {
        let wanted = body.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if wanted.len() > MAX_PER_LIST {
            return Err(refuse(40_001, format!("param error: at most {MAX_PER_LIST} {list}")));
        }
        for wanted in wanted.iter().filter_map(Value::as_str) {
            let known = users.iter().find(|user| {
                let value = if field == "email" { &user.email } else { &user.mobile };
                !value.is_empty() && value == wanted && (with_resigned || user.status != UserStatus::Resigned)
            });
            rows.push(match known {
                Some(user) => json!({ "user_id": id_of(user, id_type), field: wanted, "status": status(user) }),
                None => json!({ field: wanted }),
            });
        }
    }
    Ok(success(json!({ "user_list": rows })))
}

/// A person by any of the kinds of id.
pub(super) fn find(tx: &Tx<'_>, id_type: &str, id: &str) -> Result<Option<User>, StoreError> {
    if id_type == "open_id" {
        return tx.get(id);
    }
    let matches = |user: &User| match id_type {
        "union_id" => user.union_id == id,
        "user_id" => user.user_id == id,
        "email" => user.email == id,
        _ => false,
    };
    Ok(tx.all::<User>()?.into_iter().find(|user| !id.is_empty() && matches(user)))
}

fn id_of<'u>(user: &'u User, id_type: &str) -> &'u str {
    match id_type {
        "union_id" => &user.union_id,
        "user_id" => &user.user_id,
        _ => &user.open_id,
    }
}

fn status(user: &User) -> Value {
    json!({
        "is_frozen": user.status == UserStatus::Frozen, "is_resigned": user.status == UserStatus::Resigned,
        "is_activated": true, "is_exited": false, "is_unjoin": false,
    })
}

fn profile(user: &User) -> Value {
    json!({
        "open_id": user.open_id, "union_id": user.union_id, "user_id": user.user_id, "name": user.name,
        "en_name": user.en_name, "email": user.email, "mobile": user.mobile, "employee_no": user.employee_no,
        "job_title": user.job_title, "department_ids": user.department_ids, "status": status(user),
    })
}
