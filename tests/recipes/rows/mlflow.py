"""MLflow: its own client, and its pages, behind the tunnel's password."""

from recipe import PASSWORD
from visitor import expect

SECTION = "MLflow"
PYPI = ["mlflow==3.17.2"]
CLIENT = """
import mlflow, pathlib
pathlib.Path("model.bin").write_bytes(b"x" * 300_000)
mlflow.set_experiment("garden")
with mlflow.start_run() as run:
    mlflow.log_metric("height", 42)
    mlflow.log_artifact("model.bin")
fetched = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="model.bin", dst_path="fetched")
print(pathlib.Path(fetched).stat().st_size, mlflow.get_run(run.info.run_id).data.metrics["height"])
"""
SEARCH = {"max_results": 10, "filter": "name = 'garden'"}


def run(recipe):
    recipe.write("client.py", CLIENT)
    command = recipe.text("sh").strip()
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    app = recipe.start(command, env=quiet, patience=120)
    with recipe.step("Python's client logs a run, uploads an artifact and downloads it"):
        account = {"MLFLOW_TRACKING_URI": recipe.url, "MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        printed = recipe.run("python client.py", env={**recipe.as_client(), **account, **quiet})
        assert printed.splitlines()[-1] == "300000 42.0", printed
    with recipe.step("the pages find the run"):
        found = expect(recipe.signed_in().post("/ajax-api/2.0/mlflow/experiments/search", json=SEARCH)).json()
        assert [one["name"] for one in found["experiments"]] == ["garden"], found
    with recipe.step("without the password it is 401"):
        expect(recipe.visitor().get("/"), 401)
    app.end()

    hosts, origins = command.index("--allowed-hosts"), command.index("--cors-allowed-origins")
    app = recipe.start(command[:origins], env=quiet, patience=120)
    with recipe.step("without --cors-allowed-origins a page's POST is 403"):
        expect(recipe.signed_in().post("/ajax-api/2.0/mlflow/experiments/search", json=SEARCH), 403)
    app.end()
    recipe.start(command[:hosts], env=quiet, patience=120)
    with recipe.step("without --allowed-hosts everything is 403"):
        expect(recipe.visitor().get("/", auth=("ann", PASSWORD)), 403)
