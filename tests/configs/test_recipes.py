"""Every full-size config has the numbers of its source, and sets nothing else."""

import pytest
from config_files import ROOT, flatten, load
from reference import fcis_recipes, lineage_recipes, paper_recipes

from mask_rcnn_ext import model_zoo
from mask_rcnn_ext.config import get_cfg
from mask_rcnn_ext.modeling.checks import check_registry_names, require_fitting_parts

RECIPES = paper_recipes.RECIPES | fcis_recipes.RECIPES | lineage_recipes.RECIPES
DEFAULTS = flatten(get_cfg())


@pytest.mark.parametrize("name", RECIPES)
def test_a_config_is_the_recipe_of_its_source_and_sets_nothing_else(name):
    cfg = load(name)
    values = flatten(cfg)
    assert {key: values[key] for key in RECIPES[name]} == RECIPES[name]
    changed = {key for key, value in values.items() if value != DEFAULTS[key]}
    assert changed - set(RECIPES[name]) == {"OUTPUT_DIR"}
    assert values["OUTPUT_DIR"] == f"output/{name.split('/')[-1]}"
    assert flatten(model_zoo.get_config(name)) == values
    check_registry_names(cfg)
    require_fitting_parts(cfg)


def test_there_is_a_recipe_for_every_config():
    found = {path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.yaml")}
    bases = {name for name in found if name.split("/")[-1].startswith("Base-")}
    ours = {name for name in found if name.startswith("shapes/")} | {"mask_rcnn_lite0_FPN"}
    assert found - bases - ours == set(RECIPES)
