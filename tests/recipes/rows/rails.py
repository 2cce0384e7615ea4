"""Rails: forms with CSRF tokens, redirects and Action Cable."""

from visitor import expect

SECTION = "Rails"
DEBIAN = {"puma": "puma", "rails": "ruby-railties", "action_cable": "ruby-actioncable"}

APPLICATION = """
require "rails"
require "action_controller/railtie"
require "action_cable/engine"

class App < Rails::Application
  config.root = __dir__
  config.load_defaults 6.1
  config.eager_load = false
  config.secret_key_base = "x" * 64
  config.logger = Logger.new($stdout)
  config.action_cable.cable = { "adapter" => "async" }
  routes.append do
    get "/form", to: "forms#new"
    post "/form", to: "forms#create"
    get "/done", to: "forms#done"
  end
end

class FormsController < ActionController::Base
  protect_from_forgery with: :exception

  def new
    render inline: <<~HTML
      <form action="/form" method="post">
        <input type="hidden" name="authenticity_token" value="<%= form_authenticity_token %>">
        <button id="go">go</button>
      </form>
    HTML
  end

  def create
    session[:posted_to] = request.base_url
    redirect_to "/done"
  end

  def done
    render plain: "posted to #{session[:posted_to]}"
  end
end

module ApplicationCable
  class Connection < ActionCable::Connection::Base; end
  class Channel < ActionCable::Channel::Base; end
end

class EchoChannel < ApplicationCable::Channel
  def echo(data)
    transmit({ echo: data["text"] })
  end
end

App.initialize!
run App
"""

CABLE = """
new Promise((answer) => {
  const socket = new WebSocket(`wss://${location.host}/cable`, ['actioncable-v1-json']);
  const identifier = JSON.stringify({ channel: 'EchoChannel' });
  const send = (more) => socket.send(JSON.stringify({ identifier, ...more }));
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === 'welcome') send({ command: 'subscribe' });
    if (message.type === 'confirm_subscription') send({ command: 'message', data: JSON.stringify({ action: 'echo', text: 'hello' }) });
    if (message.message) answer(message.message.echo);
  };
  socket.onclose = ({ code }) => answer(`closed with ${code}`);
})
"""


def run(recipe):
    recipe.write("config.ru", APPLICATION)
    app = started(recipe, recipe.text("ruby"))
    check(recipe, recipe.url, "with config.hosts")
    with recipe.step("a form without its token is refused"):
        expect(recipe.visitor().post("/form", data={}), 422)
    app.end()

    started(recipe, "")
    with recipe.step("with neither, every page is 403"):
        expect(recipe.visitor().get("/form"), 403)
    recipe.offer(f'{recipe.services}host_header = "local"\n')
    check(recipe, f"https://localhost:{recipe.port}", "with host_header = local")


def started(recipe, settings):
    recipe.write("config/environments/development.rb", f"Rails.application.configure do\n{settings}end\n")
    return recipe.start(f"puma --bind tcp://127.0.0.1:{recipe.port} config.ru", env={"RAILS_ENV": "development"})


def check(recipe, base, words):
    """`base` is what Rails takes as its own address."""
    with recipe.step(f"a form is accepted, and redirects to the public address, {words}"), recipe.browser() as browser:
        browser.open(f"{recipe.url}/form")
        browser.wait_for("the form", "document.querySelector('#go') && (document.querySelector('#go').click(), true)")
        browser.wait_for("the page after it", f"document.body.innerText === 'posted to {base}'")
        assert browser.evaluate("location.href") == f"{recipe.url}/done"
        echo = browser.evaluate(CABLE)
        assert echo == "hello", f"Action Cable: {echo}"
