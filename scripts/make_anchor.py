"""Makes clipsearch/training/anchor.tar: drawings of everyday things, each with a caption, for the built-in anchor set.

The drawings are from the Open Clip Art Library, release 0.18, which its authors dedicated to the public domain;
Debian packages it as openclipart-png. For each noun the first file whose name is the noun and nothing but an author
or a number is taken.

    apt-get download openclipart-png && dpkg-deb -x openclipart-png_*.deb unpacked
    python scripts/make_anchor.py unpacked/usr/share/openclipart/png
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

from PIL import Image, ImageChops

SIDE = 112
QUALITY = 60
TARGET = Path(__file__).resolve().parent.parent / "clipsearch" / "training" / "anchor.tar"
FILES = """
animals/bugs/ant.png
animals/mammals/bears/bear_peterm_01.png
animals/bugs/bee.png
animals/birds/bird_of_peace_mauro_oliv_01.png
animals/bugs/butterfly_jonvdveen_01.png
animals/mammals/camel_head_01.png
animals/mammals/deer_matt_todd_01.png
animals/mammals/dogs/dog_head_nicu_buculei_01.png
animals/fish/dolphin.png
animals/dragon_head_nicu_buculei_01.png
animals/birds/duck_yellow_kurt_cagle_.png
animals/birds/eagle_01.png
animals/mammals/elephant_01.png
animals/mammals/goat_nicu_buculei_01.png
animals/bugs/ladybug_01.png
animals/lizard_guillaume_boitel_.png
animals/mammals/monkey_head_nicu_buculei_01.png
animals/birds/owl_on_branch_ganson.png
computer/icons/lemon-theme/apps/penguin.png
animals/mammals/pig_marcelo_caiafa1.png
animals/birds/rooster_01.png
animals/scorpion-md-v0.1.png
animals/fish/seahorse.png
animals/mammals/sheep-md-v0.1.png
animals/bugs/spider.png
animals/mammals/big_cats/tiger_graig_ryan_smith_-_01.png
animals/turtle_jurgen_gaeremyn_01.png
food/fruit/banana.png
food/meats_and_eggs/bacon_01.png
food/beverages/alcohol/beer.png
food/meats_and_eggs/hamburger_ganson.png
food/desserts/candy_01.png
food/dairy/cheese_01.png
food/fruit/cherries.png
food/breads_and_carbs/croissant_01.png
food/fruit/grapes_01.png
food/fruit/lemon.png
plants/mushroom.png
food/fruit/peach_simple.png
food/fruit/pear.png
food/fruit/pineapple.png
food/pizza_cheese.png
food/pumpkin2_yemu_01.png
food/sandwich_one_jean-victor_01.png
food/soup_jarno_vasamaa_.png
food/fruit/strawberry.png
food/fruit/watermelon_simple.png
transportation/vehicles/bicycle_01.png
transportation/bus_01.png
transportation/motorcycle_jarno_vasama_.png
transportation/vehicles/plane_silhouet_mo_01.png
transportation/vehicles/rocket.png
transportation/boating/sailboat_illustration.png
transportation/truck_jarno_vasamaa1.png
buildings/church_building_01_01.png
buildings/factory_gabrielle_nowick_.png
buildings/homes/house.png
transportation/vehicles/lighthouse_01.png
plants/cactus_linda_kim_01.png
plants/flowers/daisy_jonathan_dietrich_01.png
plants/flowers/flower_01.png
plants/leaf_01.png
plants/trees/evergreen/tree.png
transportation/anchor.png
tools/axe_peterm_.png
recreation/toys/ball.png
computer/icons/flat-theme/action/bell.png
education/books/book_01.png
tools/bottle_jean_victor_balin_.png
containers/box_juliane_krug_r.png
tools/broom_nicu_buculei_01.png
education/brush.png
office/calculator.png
computer/icons/flat-theme/applications/clock.png
computer/hardware/computer.png
recreation/dice.png
office/envelope_01.png
office/eraser.png
geography/globe_01.png
recreation/music/guitar_ganson.png
tools/hammer_peterm1.png
recreation/music/headphones_davide_pesent_.png
tools/key_jordan_wiens_01.png
computer/hardware/keyboard.png
tools/weapons/knife.png
computer/hardware/laptop.png
tools/lock.png
recreation/music/microphone_stand_gerald__01.png
computer/hardware/monitor.png
food/beverages/mug.png
education/pencil_01.png
recreation/music/piano_theory__ganson.png
computer/hardware/printer.png
recreation/toys/robot_ganson.png
tools/saw_peterm_.png
education/scissors.png
tools/screwdriver_peterm_.png
tools/weapons/shield_matt_todd_01.png
tools/weapons/sword_01.png
office/telephone/telephone_receiver_01.png
tools/telescope_01.png
buildings/furniture/television_peterm_.png
tools/toothbrush_and_paste_ganson.png
recreation/music/trumpet_b_flat__ganson.png
tools/umbrella.png
recreation/music/violin_mo_01.png
computer/icons/flat-theme/action/wallet_open.png
tools/wrench_jarno_vasamaa_01.png
food/chef_jarno_vasamaa_.png
people/man01.png
animals/fantasy/mermaid_kurt_cagle_.png
people/skull_charles_mccolm_01.png
recreation/holiday/snowman_01.png
people/woman01.png
computer/icons/lightning_icon_benji_par_01.png
recreation/holiday/rainbow_linda_kim_01.png
geography/astronomy/saturn_dan_gerhards_01.png
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("library", type=Path, help="the folder `png` of openclipart-png")
    library: Path = parser.parse_args().library
    with tarfile.open(TARGET, "w", format=tarfile.USTAR_FORMAT) as archive:
        for line in FILES.split():
            noun = Path(line).stem.replace("-", "_").split("_")[0].rstrip("0123456789").lower()
            add(archive, f"{noun}.webp", drawing(library / line))
            article = "an" if noun[0] in "aeiou" else "a"
            add(archive, f"{noun}.txt", f"a drawing of {article} {noun}\n".encode())
    print(f"{TARGET}: {len(FILES.split())} drawings, {TARGET.stat().st_size / 1000:.0f} kB")


def drawing(file: Path) -> bytes:
    """A drawing on white, at most SIDE pixels wide and high, as WebP."""
    with Image.open(file) as opened:
        image = opened.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    white = white.crop(ImageChops.difference(white, Image.new("RGBA", white.size, "white")).convert("RGB").getbbox())
    white.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    white.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member that is the same whenever it is made."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
