//! Tests of the lvm report module.

use super::*;
use proptest::prelude::*;

/// What LVM 2.03.16 printed for a group with two volumes, one of them grown.
const SAMPLE: &str = r#"
  {
      "report": [
          {
              "vg": [
                  {"vg_name":"onggi-try", "vg_uuid":"FjqRvI-suIV", "vg_seqno":"5", "vg_extent_size":"4194304", "vg_extent_count":"507", "vg_free_count":"474", "vg_tags":"onggi", "vg_missing_pv_count":"0"}
              ]
              ,
              "pv": [
                  {"pv_name":"/dev/loop0", "pv_uuid":"6dZdBI-Z1UT", "pe_start":"17825792", "pv_pe_count":"507", "dev_size":"2147483648"}
              ]
              ,
              "lv": [
                  {"lv_name":"onggi-zeroing-x", "lv_uuid":"GdGoKE", "lv_size":"12582912", "lv_tags":"onggi", "lv_attr":"-wi-XX----", "data_percent":""},
                  {"lv_name":"volume-a", "lv_uuid":"4zdkjf", "lv_size":"125829120", "lv_tags":"onggi,onggi.name=a+20b", "lv_attr":"-wi-a-----", "data_percent":"12.34"}
              ]
              ,
              "pvseg": [
                  {"pvseg_start":"0"},
                  {"pvseg_start":"20"}
              ]
              ,
              "seg": [
                  {"lv_uuid":"4zdkjf", "segtype":"linear", "seg_start_pe":"20", "seg_size_pe":"10", "seg_pe_ranges":"/dev/loop0:23-32"},
                  {"lv_uuid":"4zdkjf", "segtype":"linear", "seg_start_pe":"0", "seg_size_pe":"20", "seg_pe_ranges":"/dev/loop0:0-19"},
                  {"lv_uuid":"GdGoKE", "segtype":"linear", "seg_start_pe":"0", "seg_size_pe":"3", "seg_pe_ranges":"/dev/loop0:20-22"}
              ]
          }
      ]
  }
"#;

#[test]
fn a_real_report_becomes_types() {
    let group = parse(SAMPLE).unwrap().unwrap();
    assert_eq!(
        (group.name.as_str(), group.seqno, group.free_count),
        ("onggi-try", 5, 474)
    );
    assert_eq!(group.extents(507), ByteCount::from_mib(2_028));
    assert_eq!(group.extents_for(ByteCount::from_mib(5)), 2);
    assert_eq!(group.physical[0].extents_start, ByteCount::from_mib(17));
    let volume = group.volume("volume-a").unwrap();
    assert_eq!(volume.tags, ["onggi", "onggi.name=a+20b"]);
    assert_eq!(volume.used_hundredths_percent, Some(1_234));
    assert!(volume.is_active && !group.volume("onggi-zeroing-x").unwrap().is_active);
    let starts: Vec<u64> = volume
        .segments
        .iter()
        .map(|segment| segment.start)
        .collect();
    assert_eq!(starts, [0, 20]);
    assert_eq!(
        volume.segments[1].ranges[0],
        ExtentRange {
            device: "/dev/loop0".into(),
            first: 23,
            last: 32
        }
    );
}

#[test]
fn an_empty_report_is_no_group() {
    assert_eq!(parse("{\"report\": [ ]}").unwrap(), None);
}

#[test]
fn a_field_of_another_kind_is_named() {
    for (from, to, field) in [
        ("\"vg_seqno\":\"5\"", "\"vg_seqno\":\"-5\"", "vg_seqno"),
        ("\"vg_seqno\":\"5\"", "\"vg_seqno\":\"+5\"", "vg_seqno"),
        (
            "\"vg_extent_size\":\"4194304\"",
            "\"vg_extent_size\":\"0\"",
            "vg_extent_size",
        ),
        (
            "\"vg_free_count\":\"474\"",
            "\"vg_free_count\":\"\"",
            "vg_free_count",
        ),
        ("/dev/loop0:23-32", "/dev/loop0:23", "seg_pe_ranges"),
        ("/dev/loop0:23-32", "/dev/loop0:32-23", "seg_pe_ranges"),
        ("12.34", "1234", "data_percent"),
        ("12.34", "100.01", "data_percent"),
    ] {
        let text = SAMPLE.replace(from, to);
        assert_ne!(text, SAMPLE, "{from}");
        let error = parse(&text).unwrap_err();
        assert!(error.to_string().contains(field), "{to}: {error}");
    }
}

#[test]
fn a_missing_field_and_a_stray_segment_are_refused() {
    assert!(matches!(
        parse(&SAMPLE.replace("pe_start", "pe_begin")),
        Err(ReportError::Json(_))
    ));
    let stray = SAMPLE.replace(
        "\"lv_uuid\":\"GdGoKE\", \"segtype\"",
        "\"lv_uuid\":\"other\", \"segtype\"",
    );
    assert!(matches!(parse(&stray), Err(ReportError::Inconsistent(_))));
}

proptest! {
    #[test]
    fn any_text_is_a_report_or_an_error_and_never_a_panic(text in "\\PC{0,200}") {
        drop(parse(&text));
    }

    #[test]
    fn a_report_cut_or_changed_anywhere_is_never_a_panic(
        at in 0..SAMPLE.len(), cut in any::<bool>(), with in "[ -~]{0,3}"
    ) {
        let tail = if cut { "" } else { &SAMPLE[(at + 1).min(SAMPLE.len())..] };
        drop(parse(&format!("{}{with}{tail}", &SAMPLE[..at])));
    }

    #[test]
    fn ranges_read_back(ranges_in in prop::collection::vec((0u64..1_000_000, 0u64..1_000), 0..5)) {
        let text: Vec<String> =
            ranges_in.iter().map(|(first, more)| format!("/dev/a:b:{first}-{}", first + more)).collect();
        let parsed = ranges(&text.join(" ")).unwrap();
        prop_assert_eq!(parsed.len(), ranges_in.len());
        for (range, (first, more)) in parsed.iter().zip(ranges_in) {
            prop_assert_eq!((range.first, range.last), (first, first + more));
            prop_assert_eq!(&range.device, &PathBuf::from("/dev/a:b"));
        }
    }
}
