"""MQTT over WebSocket: mosquitto, and clients that subscribe and publish."""

import queue
import ssl
import threading

from stack import PATIENCE, free_port

SECTION = "MQTT over WebSocket"
DEBIAN = {"mosquitto": "mosquitto"}

PASSWORD = "Che3Ohth"


def run(recipe):
    passwords = recipe.write("passwd", "")
    recipe.run(f"mosquitto_passwd -b passwd ann {PASSWORD}")
    # The broker gives up root, and then reads it.
    passwords.chmod(0o644)
    config = recipe.text("conf").replace("/etc/mosquitto/passwd", str(passwords)).replace("listener 1883 ", f"listener {free_port()} ")
    recipe.start(f"mosquitto -c {recipe.write('mosquitto.conf', config)}")

    with recipe.step("a wrong password is refused by the broker"), Client(recipe, "wrong") as stranger:
        assert stranger.answer() == "Not authorized"
    with Client(recipe, PASSWORD) as one, Client(recipe, PASSWORD) as other:
        with recipe.step("two clients connect"):
            assert [client.answer() for client in (one, other)] == ["Success", "Success"]
        with recipe.step("one receives what the other publishes: 100 KB in one message"):
            other.mqtt.subscribe("home/#", qos=1)
            assert other.answer() == "subscribed"
            large = bytes(range(256)) * 400
            one.mqtt.publish("home/large", large, qos=1)
            assert other.messages.get(timeout=PATIENCE) == ("home/large", large)
        with recipe.step("a quiet connection stays"):
            # The broker drops a client that is silent for one and a half keep-alives: two pings have to pass.
            for _ in range(2):
                other.pinged.clear()
                assert other.pinged.wait(PATIENCE), "no answer to a ping"
            one.mqtt.publish("home/later", b"still here", qos=1)
            assert other.messages.get(timeout=PATIENCE) == ("home/later", b"still here")
            assert one.answers.empty() and other.answers.empty(), "a client had to reconnect"


class Client:
    """A client of MQTT, as an application in Python has it."""

    def __init__(self, recipe, password):
        import paho.mqtt.client as mqtt
        import socks

        self.answers, self.messages, self.pinged = queue.Queue(), queue.Queue(), threading.Event()
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, transport="websockets")
        self.mqtt.username_pw_set("ann", password)
        self.mqtt.tls_set_context(ssl.create_default_context(cafile=str(recipe.stack.ca)))
        self.mqtt.ws_set_options(path="/mqtt")
        self.mqtt.proxy_set(proxy_type=socks.HTTP, proxy_addr="127.0.0.1", proxy_port=recipe.road.server_address[1])
        self.mqtt.on_connect = lambda client, data, flags, reason, properties: self.answers.put(str(reason))
        self.mqtt.on_subscribe = lambda *_: self.answers.put("subscribed")
        self.mqtt.on_message = lambda client, data, message: self.messages.put((message.topic, message.payload))
        self.mqtt.on_log = lambda client, data, level, text: "PINGRESP" in text and self.pinged.set()
        self.mqtt.connect(recipe.host, 443, keepalive=2)
        self.mqtt.loop_start()

    def answer(self):
        return self.answers.get(timeout=PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()
