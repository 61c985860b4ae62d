//! The people every new sandbox starts with.

use crate::clock::random_hex;
use crate::model::{User, UserStatus};
use crate::store::{StoreError, Tx};

const ROOT_DEPARTMENT: &str = "0";

/// Adds the predefined people if there is nobody yet.
pub(crate) fn seed(tx: &Tx<'_>) -> Result<(), StoreError> {
    if !tx.newest::<User>(None, 1, |_| true)?.is_empty() {
        return Ok(());
    }
    for (id, name, en_name, job_title, status) in [
        ("ann", "Ann Carter", "Ann Carter", "Product manager", UserStatus::Active),
        ("xiaoming", "王小明", "Wang Xiaoming", "后端工程师", UserStatus::Active),
        ("lina", "李娜 🌸", "Li Na", "运营经理", UserStatus::Active),
        ("jose", "José Núñez 🚀", "Jose Nunez", "Data analyst", UserStatus::Active),
        ("hanako", "山田花子", "Hanako Yamada", "デザイナー", UserStatus::Active),
        ("frozen", "陈冻结 🧊", "Chen (frozen)", "Sales", UserStatus::Frozen),
        ("resigned", "赵离职", "Zhao (resigned)", "Sales", UserStatus::Resigned),
    ] {
        tx.put(&complete(User {
            open_id: format!("ou_{id}"),
            union_id: format!("on_{id}"),
            user_id: id.to_owned(),
            name: name.to_owned(),
            en_name: en_name.to_owned(),
            email: format!("{id}@example.com"),
            mobile: String::new(),
            employee_no: String::new(),
            job_title: job_title.to_owned(),
            department_ids: Vec::new(),
            status,
        }))?;
    }
    Ok(())
}

/// Fills in the ids a person must have.
pub(crate) fn complete(mut user: User) -> User {
    if user.open_id.is_empty() {
        user.open_id = format!("ou_{}", random_hex::<16>());
    }
    if user.union_id.is_empty() {
        user.union_id = format!("on_{}", random_hex::<16>());
    }
    if user.user_id.is_empty() {
        user.user_id = random_hex::<4>();
    }
    if user.department_ids.is_empty() {
        user.department_ids.push(ROOT_DEPARTMENT.to_owned());
    }
    user
}
