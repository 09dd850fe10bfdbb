"""Folders that are none of the user's by their names alone: of other programs, systems and NAS devices."""

from __future__ import annotations

import re

FOLDERS: dict[str, str] = {
    name: category
    for category, names in {
        # Windows, Samba, Synology, Unraid, QNAP, UGREEN, Buffalo, Netatalk, Nextcloud
        "recycle bins": """$recycle.bin recycler recycled recycle_bin recyclebin #recycle @recycle @recycled trashbox
            network_trash_folder files_trashbin $avg.trash _recycle @__qini""",
        # Synology, QNAP, NetApp, Btrfs, Time Machine, Nextcloud, Windows
        "snapshots and backups": """#snapshot @snapshot @snapshots @recently-snapshot ~snapshot @sharesnap @gmt_snapshot
            backups.backupdb timeshift-btrfs files_versions windowsimagebackup""",
        # Synology, QNAP, TrueNAS, Thecus, WD
        "folders of NAS systems": """
            @eadir @tmp @sharebin @database @appstore @appconf @appdata @apphome @appshare @apptemp @appcache @docker
            @containermanager @cloudsync @activebackup @iscsi @lun @s2s @synologydrive @synofinder-log
            @synoconfd @synocalendar @synologyapplicationservice @synoaudiod @synodldb @syno
            @userpreference @img_bkp_cache @imagesync @maillog @autoupdate @ssbackup @guestimage
            @m2virtual @xfs_quota @quarantine @config_backup @sysdata @__thumb @transcode @upload_cache
            @metadata @station_config @synoeastream ix-applications nas_prog _nas_module_source_ wdcache""",
        "folders of Windows": """system_volume_information $extend $winreagent $windows.~bt $windows.~ws $sysreset
            $getcurrent config.msi msocache appdata temporary_internet_files inetcache perflogs
            onedrivetemp""",
        "folders of macOS": """__macosx temporary_items thevolumesettingsfolder thefindbycontentfolder ipod_photo_cache
            apple_tv_photo_cache""",
        "recovered fragments": "lost+found lost.dir",
        "folders of programs": """node_modules bower_components __pycache__ site-packages dist-packages
            _vti_cnf""",  # FrontPage
        "previews of other programs": "pwg_representative",  # Piwigo
        "originals that an editor set aside": ".picasaoriginals [originals]",  # Picasa, ACDSee
    }.items()
    for written in names.split()
    for name in {written, written.replace("_", " ")}
}
"""Names that hardly anybody but systems and programs gives, in lower case (here with _ for a space), and what to call
them."""

PATTERNS: tuple[tuple[str, str], ...] = (
    (r"found\.\d{3}", "recovered fragments"),  # Windows' chkdsk
    (r"network recycle bin( \d+)?|_nas_recycle_.*|\.trash-\d+", "recycle bins"),
    (r"@gmt-\d{4}\.\d\d\.\d\d-\d\d\.\d\d\.\d\d", "snapshots and backups"),  # Samba
    (r"\d{4}-\d\d-\d\d-\d{6}\.(backup|inprogress|interrupted|previous)", "snapshots and backups"),  # Time Machine
    (r"appdata_oc[0-9a-z]+", "previews of other programs"),  # Nextcloud
    (r"mipmaps-[0-9a-f]{40}\.d", "previews of other programs"),  # darktable
    (r"(?!mobile downloads\.).*\.lrdata", "previews of other programs"),  # Lightroom; the exception holds originals
    (r".*\.lrcat-data|.*\.lrmprev", "previews of other programs"),
    (r".*\.noindex", "folders of macOS"),
    (r".*\.(backupbundle|sparsebundle)", "snapshots and backups"),
    (r"media cache files|adobe premiere pro (preview files|(audio|video) previews)", "previews of other programs"),
    (r"adobe (bridge|camera raw) cache.*|camera raw cache|bridgecache", "previews of other programs"),
)
"""Regular expressions of whole names in lower case."""

_PATTERN = re.compile("|".join(f"(?P<p{number}>{pattern})" for number, (pattern, _) in enumerate(PATTERNS)))


def category_of(name: str) -> str | None:
    """Why a folder is none of the user's by its name alone."""
    folded = name.casefold()
    known = FOLDERS.get(folded)
    if known is not None:
        return known
    match = _PATTERN.fullmatch(folded)
    if match is None or match.lastgroup is None:
        return None
    return next(PATTERNS[number][1] for number in range(len(PATTERNS)) if match[f"p{number}"] is not None)
