"""Sign-in and sign-out of the admin pages."""

import secrets
import time
from http import HTTPStatus

from flask import Blueprint, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_user

from backend.access.login import address, our_address, our_page
from backend.admin.access import access, current_user, write_down
from backend.admin.sessions import is_https

sign_in = Blueprint("sign_in", __name__)

BROWSER_COOKIE = "captioner_browser"
"""Random name of a browser, set when somebody signs in. Wrong passwords from elsewhere do not slow it down."""
BROWSER_COOKIE_S = 90 * 24 * 3600


@sign_in.route("/admin/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    target = our_page(request.args.get("next"))
    if request.method != "POST":
        return (
            redirect(our_address(target))
            if current_user()
            else render_template("admin/login.html", target=target, problem=None)
        )
    browser = request.cookies.get(BROWSER_COOKIE) or secrets.token_urlsafe(16)
    user = access().check_password(request.form.get("name", "").strip(), request.form.get("password", ""), browser)
    if user is None:
        page = render_template("admin/login.html", target=target, problem="Wrong name or password.")
        return page, HTTPStatus.UNAUTHORIZED
    # Drop everything that was in the session before: somebody else may have put it there.
    session.clear()
    session.permanent = True
    session["signed_in_at"] = time.time()
    login_user(user)
    write_down("signed in", address=address(request))
    response = redirect(our_address(target), HTTPStatus.SEE_OTHER)
    response.set_cookie(
        BROWSER_COOKIE,
        browser,
        max_age=BROWSER_COOKIE_S,
        path=url_for("sign_in.login"),
        secure=is_https(),
        httponly=True,
        samesite="Strict",
    )
    return response


@sign_in.post("/admin/logout")
def logout() -> ResponseReturnValue:
    write_down("signed out")
    user = current_user()
    if user is not None:
        access().signed_out.note(user.name)
    session.clear()
    return redirect(url_for("sign_in.login"), HTTPStatus.SEE_OTHER)
