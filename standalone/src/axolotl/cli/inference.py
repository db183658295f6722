"""`python -m axolotl.cli.inference your_config.yaml ...` for machines without Axolotl.

Never install this beside the real Axolotl: both would own this file. There, the plugin does this job.
"""

from importlib.metadata import PackageNotFoundError, version

from axolotl_cache.cli.inference import axolotl_inference


def main() -> None:
    """Run the command, unless the real Axolotl is installed as well."""
    try:
        found = version("axolotl")
    except PackageNotFoundError:
        found = ""
    if found:
        raise SystemExit(
            f"Axolotl {found} is installed, and axolotl-cache-standalone has taken the place of its module "
            "axolotl.cli.inference. Mend it with: pip uninstall axolotl-cache-standalone && "
            "pip install --force-reinstall --no-deps axolotl"
        )
    axolotl_inference(prog_name="python -m axolotl.cli.inference")


if __name__ == "__main__":
    main()
