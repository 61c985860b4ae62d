//! What is in one event.

use std::fmt::Write as _;

use serde_json::Value;

use crate::LARGE_BYTES;
use crate::random::{Random, mix};

const GUIDS: [&str; 3] = [
    "5b5c9e1c-7a70-3f44-9d5f-2f5c8f1f7f10",
    "b0a1c8f2-6f3e-3c59-8a0b-6f1c2d3e4f5a",
    "e7d6c5b4-a392-3817-9605-f4e3d2c1b0a9",
];

const PHRASES: [&str; 24] = [
    "好的",
    "收到，马上处理",
    "今天下午三点开会，别忘了带上周的报表",
    "哈哈哈哈😂",
    "明天见👋",
    "这个版本什么时候上线？",
    "客户那边已经确认了，合同下周一寄出",
    "谢谢🙏",
    "麻烦再发一遍文件，我这边打不开",
    "OK",
    "Could you review the pull request before lunch?",
    "晚上一起吃饭吗🍜",
    "价格表我更新到共享文档里了，大家看一下有没有问题",
    "辛苦了💪",
    "在吗",
    "我觉得第二个方案更好，成本低，而且不用改接口",
    "👨‍👩‍👧‍👦 周末带孩子去公园",
    "已付款，请查收",
    "下雨了☔️ 路上小心",
    "@所有人 明天放假",
    "对了，",
    "嗯嗯",
    "帮忙转发一下",
    "See you 🚀",
];

const TITLES: [&str; 6] =
    ["季度经营分析", "产品路线图 v3", "周报模板", "如何写好一封邮件", "团队建设活动报名", "Release notes"];

const NAMES: [&str; 8] = ["小明", "阿强", "李雷", "韩梅梅", "Tom", "老王🐱", "张伟", "Anna"];

/// Ids have no order and nearly nineteen digits, as those of the real feed.
pub(crate) fn msg_id(seed: u64, at: u64) -> String {
    (mix(seed.wrapping_mul(0x1_0000_0001).wrapping_add(at)) >> 1).to_string()
}

fn wxid(random: &mut Random, of: u64) -> String {
    // Few people say most.
    let person = random.below(of).min(random.below(of));
    format!("wxid_{:014x}", mix(person) >> 8)
}

/// What of a message is an integer for once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AsInteger {
    pub(crate) id: bool,
    pub(crate) source: bool,
}

pub(crate) fn message(random: &mut Random, msg_id: &str, said_at: i64, as_integer: AsInteger, large: bool) -> Vec<u8> {
    let in_a_room = random.below(100) < 70;
    let sender = wxid(random, 3_000);
    let room = if in_a_room {
        let room = random.below(300).min(random.below(300));
        format!("{}@chatroom", 17_000_000_000 + mix(room) % 40_000_000_000)
    } else {
        String::new()
    };
    let (msg_type, content) = if large { (49, app(random, LARGE_BYTES)) } else { said(random) };
    let desc = match msg_type {
        1 => format!("{} : {}", random.pick(&NAMES), content),
        3 => format!("{}在群聊中发了一张图片", random.pick(&NAMES)),
        _ => String::new(),
    };
    let source = if as_integer.source { Value::from(random.below(10)) } else { Value::from(source(random)) };
    let (from, sender) = if in_a_room { (room.as_str(), sender.as_str()) } else { (sender.as_str(), "") };
    let guid = random.pick(&GUIDS);
    let quoted = |text: &str| Value::from(text).to_string();
    let id = if as_integer.id { msg_id.to_owned() } else { quoted(msg_id) };
    let event = format!(
        "{{\"guid\":\"{guid}\",\"notify_type\":1010,\"data\":{{\"from_username\":\"{from}\",\"to_username\":\"wxid_{:014x}\",\
         \"chatroom\":\"{room}\",\"chatroom_sender\":\"{sender}\",\"msg_id\":{id},\"msg_type\":{msg_type},\
         \"create_time\":{said_at},\"is_chatroom_msg\":{},\"content\":{},\"desc\":{},\"source\":{source}}}}}",
        mix(guid.len() as u64) >> 8,
        u8::from(in_a_room),
        quoted(&content),
        quoted(&desc),
    );
    event.into_bytes()
}

/// A type and its content.
fn said(random: &mut Random) -> (u32, String) {
    match random.below(100) {
        0..68 => {
            let mut text = random.pick(&PHRASES).to_owned();
            for _ in 0..random.below(4) {
                text.push_str(random.pick(&["\n", "，", " ", "。"]));
                text.push_str(random.pick(&PHRASES));
            }
            (1, text)
        }
        68..78 => {
            let (key, length) = (random.next(), 20_000 + random.below(900_000));
            let xml = format!(
                "<?xml version=\"1.0\"?>\n<msg>\n\t<img aeskey=\"{key:016x}{:016x}\" encryver=\"1\" cdnthumbaeskey=\"{key:016x}\" \
                 cdnthumburl=\"3057020100044b304902010002{:032x}\" cdnthumblength=\"{}\" cdnthumbheight=\"120\" cdnthumbwidth=\"90\" \
                 cdnmidheight=\"0\" cdnmidwidth=\"0\" cdnhdheight=\"0\" cdnhdwidth=\"0\" length=\"{length}\" md5=\"{:032x}\" />\n</msg>\n",
                random.next(),
                u128::from(random.next()) << 64 | u128::from(random.next()),
                length / 40,
                u128::from(random.next()) << 64 | u128::from(random.next()),
            );
            (3, xml)
        }
        78..82 => {
            let milliseconds = 800 + random.below(58_000);
            let xml = format!(
                "<msg><voicemsg endflag=\"1\" cancelflag=\"0\" forwardflag=\"0\" voiceformat=\"4\" voicelength=\"{milliseconds}\" \
                 length=\"{}\" bufid=\"0\" aeskey=\"{:032x}\" /></msg>",
                milliseconds * 2,
                u128::from(random.next()) << 64 | u128::from(random.next())
            );
            (34, xml)
        }
        82..84 => {
            let xml = format!(
                "<msg><videomsg length=\"{}\" playlength=\"{}\" md5=\"{:016x}\" /></msg>",
                random.next() >> 40,
                random.below(120),
                random.next()
            );
            (43, xml)
        }
        84..88 => {
            let xml = format!(
                "<msg><emoji fromusername=\"wxid\" type=\"2\" md5=\"{:016x}\" len=\"{}\" androidmd5=\"{:016x}\"/></msg>",
                random.below(500),
                random.below(90_000),
                random.below(500)
            );
            (47, xml)
        }
        88..98 => {
            let bytes = 700 + random.index(1_500);
            (49, app(random, bytes))
        }
        _ => (10_000, format!("\"{}\"邀请\"{}\"加入了群聊", random.pick(&NAMES), random.pick(&NAMES))),
    }
}

/// The XML of an app message: a head, and text until it is long enough.
fn app(random: &mut Random, bytes: usize) -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\"?>\n<msg>\n\t<appmsg appid=\"wx{:016x}\" sdkver=\"0\">\n\t\t<title>{}</title>\n\t\t<type>5</type>\n\t\t\
         <url>https://mp.weixin.qq.com/s?__biz={:016x}&amp;mid={}&amp;idx=1</url>\n\t\t<des>",
        random.below(40),
        random.pick(&TITLES),
        random.below(200),
        random.next() >> 32,
    );
    while xml.len() < bytes {
        xml.push_str(random.pick(&PHRASES));
        // Writing to a `String` cannot fail.
        let _ = write!(xml, "{:08x}", random.next() >> 32);
    }
    xml.push_str("</des>\n\t</appmsg>\n</msg>\n");
    xml
}

fn source(random: &mut Random) -> String {
    format!(
        "<msgsource>\n\t<silence>{}</silence>\n\t<membercount>{}</membercount>\n\t<signature>V1_{:08x}|v1_{:08x}</signature>\n\t<tmp_node>\n\t\t\
         <publisher-id></publisher-id>\n\t</tmp_node>\n</msgsource>\n",
        random.below(2),
        3 + random.below(497),
        random.next() >> 32,
        random.next() >> 32
    )
}

/// A contact that changed: some fifty fields, texts wrapped in objects.
pub(crate) fn contact(random: &mut Random, username: &str, version: u64) -> Vec<u8> {
    let name = random.pick(&NAMES);
    let wrapped = |text: &str| format!("{{\"string\":{}}}", Value::from(text));
    let mobile = 13_000_000_000 + random.below(6_999_999_999);
    let mut fields = format!(
        "\"username\":\"{username}\",\"alias\":\"{}\",\"encryptUserName\":\"v3_020b3826fd0301{:016x}@stranger\",\"contactType\":{},\
         \"deleteFlag\":{},\"verifyFlag\":0,\"sex\":{},\"country\":\"CN\",\"province\":\"{}\",\"city\":\"{}\",\"mobile\":\"{mobile}\",\
         \"nickName\":{},\"remark\":{},\"pyinitial\":{},\"quanPin\":{}",
        random.pick(&["", "tom_2020", "ann"]),
        random.next(),
        random.below(4),
        u8::from(random.below(50) == 0),
        random.below(3),
        random.pick(&["Guangdong", "Beijing", "浙江"]),
        random.pick(&["Shenzhen", "Haidian", "杭州"]),
        wrapped(&format!("{name}{version}")),
        if random.below(2) == 0 { "{}".to_owned() } else { wrapped("客户") },
        wrapped("XM"),
        wrapped("xiaoming"),
    );
    fields.push_str(&format!(
        ",\"snsUserInfo\":{{\"snsFlag\":1,\"snsBgimgId\":\"http://mmsns/{:x}\",\"snsFlagEx\":4097}}",
        random.next()
    ));
    fields.push_str(",\"customInfo\":{\"detail\":\"{\\\"phone\\\":\\\"13912345678\\\"}\",\"imei\":\"\"}");
    fields.push_str(",\"newChatroomData\":{\"memberCount\":0,\"infoMask\":0}");
    for at in 0..34 {
        // Writing to a `String` cannot fail.
        let _ = write!(fields, ",\"field{at:02}\":{}", random.below(3));
    }
    format!("{{\"guid\":\"{}\",\"notify_type\":1010,\"data\":{{{fields}}}}}", random.pick(&GUIDS)).into_bytes()
}
