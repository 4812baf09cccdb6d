"""The event display: prints each event that the Broker brings, and shows requests on a live page.

event_form     an event as Knative's event_display prints it
masking        the same without what may be secret, for the page
subscription   the Broker's activity, as it happens
requests       what it says about each request: a state, and a timeline
timeline       the entries of one, in words
send           what the page's buttons do: send an example, retry a dead request
live           the rows of the list, as they change
page           the routes; `static/` is what the browser runs
"""
